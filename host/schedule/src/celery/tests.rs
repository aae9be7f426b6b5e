//! What is read of files, dicts and JSON with a beat_schedule, and that no text makes the importer panic.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn of(text: &str) -> Import {
    import(text, None).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn one(entry: &str) -> Imported {
    let import = of(&format!("beat_schedule = {{'a': {entry}}}"));
    assert_eq!(import.left_out, [], "{entry}");
    import.schedules.into_iter().next().unwrap()
}

fn when(schedule: &str) -> Value {
    one(&format!("{{'task': 't', 'schedule': {schedule}}}")).definition["when"].clone()
}

/// Why an entry with this schedule is left out.
fn refused(schedule: &str) -> String {
    let import = of(&format!("beat_schedule = {{\n'a': {{'task': 't',\n'schedule': {schedule}}}}}"));
    assert_eq!(import.schedules, [], "{schedule}");
    assert_eq!((import.left_out.len(), &*import.left_out[0].name), (1, "a"), "{schedule}");
    assert_eq!(import.left_out[0].line, 3, "{schedule}");
    import.left_out[0].reason.clone()
}

#[test]
fn schedules_of_every_kind_are_understood() {
    let cron = |text: &str| json!({"cron": text, "days": "and"});
    assert_eq!(when("crontab()"), cron("* * * * *"));
    assert_eq!(when("crontab(minute=0, hour='*/3')"), cron("0 */3 * * *"));
    assert_eq!(when("crontab(30, 7, day_of_week=1)"), cron("30 7 * * 1"));
    assert_eq!(when("crontab('0', '0', 'mon-fri', '1-7', '*/3')"), cron("0 0 1-7 */3 mon-fri"));
    assert_eq!(when("schedules.crontab(minute={45, 15}, hour=range(8, 18, 3))"), cron("15,45 8,11,14,17 * * *"));
    assert_eq!(when("crontab.from_string('0 3 * * 1')"), cron("0 3 * * 1"));
    for (text, every) in [
        ("30", "30s"),
        ("60.0 * 5", "5m"),
        ("timedelta(hours=12)", "12h"),
        ("datetime.timedelta(1)", "24h"),
        ("timedelta(minutes=1, seconds=.5)", "60500ms"),
        ("schedule(run_every=timedelta(seconds=90), relative=True)", "90s"),
        ("celery.schedules.schedule(10)", "10s"),
    ] {
        assert_eq!(when(text), json!({ "every": every }), "{text}");
    }
    let place = json!({"event": "sunset", "latitude": -37.8, "longitude": 144.9});
    assert_eq!(when("solar('sunset', -37.8, lon=144.9)"), json!({ "solar": place }));
}

#[test]
fn schedules_that_are_not_understood_say_why() {
    for (schedule, part) in [
        ("crontab(minute=61)", "61"),
        ("crontab(day_of_month=31, month_of_year=2)", "never"),
        ("crontab(nowfun=now)", "nowfun"),
        ("crontab(0, minute=1)", "twice"),
        ("crontab(hour=HOUR)", "`HOUR` is a name"),
        ("0.5", "1 second"),
        ("timedelta(days=-1)", "1 second"),
        ("timedelta(months=1)", "months"),
        ("solar('noon', 1, 2)", "solar_noon"),
        ("solar('sunset', 91, 2)", "latitude"),
        ("solar('sunset', 1)", "lon"),
        ("MySchedule()", "`MySchedule(…)`"),
        ("make()", "crontab, timedelta"),
        ("crontab(hour=3) if PROD else 60", "is no literal"),
        ("settings.EVERY", "settings.EVERY"),
        ("None", "None"),
        ("'soon'", "fields"),
        ("{'x': 1}", "no known form"),
    ] {
        let reason = refused(schedule);
        assert!(reason.contains(part), "{schedule}: {reason}");
    }
}

#[test]
fn an_entry_has_its_task_arguments_and_options() {
    let imported = one(
        "{'task': 'app.tasks.report', 'schedule': crontab(hour=3, minute=0), 'args': (16, 'x', None, [1.5, True]),
          'kwargs': {'to': {'a': 1}}, 'options': {'queue': 'mail', 'priority': 5, 'expires': timedelta(minutes=5),
          'countdown': 2.5, 'routing_key': 'x.y', 'serializer': 'json', 'ignore_result': True, 'odd': 1}, 'relative': True}",
    );
    let expected = json!({
        "start": {"task": "app.tasks.report", "args": [16, "x", null, [1.5, true]], "kwargs": {"to": {"a": 1}},
            "options": {"queue": "mail", "priority": 5, "expires_ms": 300_000, "countdown_ms": 2_500, "ignore_result": true}},
        "when": {"cron": "0 3 * * *", "days": "and"}, "overlap": "allow",
    });
    assert_eq!(Value::Object(imported.definition), expected);
    let notes: Vec<_> = imported.notes.iter().map(|note| note.text.as_str()).collect();
    for part in ["priority 5", "routing_key is left away", "serializer is left away", "odd is left away"] {
        assert_eq!(notes.iter().filter(|note| note.contains(part)).count(), 1, "{part}: {notes:?}");
    }
    assert_eq!(notes.len(), 4);
}

#[test]
fn what_cannot_be_written_as_json_leaves_its_entry_out_with_the_place() {
    for (arguments, part) in [
        ("'args': (date.today(),)", "args[0]: JSON has no such value: `date.today(…)`"),
        ("'args': ({1, 2},)", "a set"),
        ("'kwargs': {'a': [1, b'x']}", "kwargs.a[1]: JSON has no such value: `b'x'` is bytes"),
        ("'kwargs': {'a': 99999999999999999999}", "64 bits"),
        ("'args': ARGS", "args: no list: `ARGS` is a name"),
        ("'kwargs': {**BASE}", "kwargs: a key is no text"),
        ("'task': add.name", "its task is no text"),
        ("'task': 'a/b'", "cannot be one here"),
    ] {
        let text = format!(
            "beat_schedule = {{'a': {{'task': 't', 'schedule': 5, {arguments}}}, 'b': {{'task': 't', 'schedule': 5}}}}"
        );
        let import = of(&text);
        assert_eq!(import.schedules.len(), 1, "{arguments}");
        assert!(import.left_out[0].reason.contains(part), "{arguments}: {}", import.left_out[0].reason);
    }
    for (entry, part) in
        [("{'task': 't'}", "no schedule"), ("{'schedule': 5}", "no task"), ("make()", "no dict"), ("{**x}", "key")]
    {
        let import = of(&format!("beat_schedule = {{'a': {entry}}}"));
        assert!(import.left_out[0].reason.contains(part), "{entry}: {}", import.left_out[0].reason);
    }
}

#[test]
fn schedules_are_found_wherever_a_file_has_them() {
    let dict = "{'a': {'task': 't', 'schedule': 5}}";
    for text in [
        dict.to_owned(),
        format!("# a comment\n{dict}\n"),
        format!("beat_schedule = {dict}"),
        format!("from celery import Celery\napp = Celery('x')\napp.conf.beat_schedule = {dict}\napp.start()\n"),
        format!("CELERY_BEAT_SCHEDULE = {dict}"),
        format!("CELERYBEAT_SCHEDULE: dict[str, dict] = {dict}"),
        format!("class Config:\n    beat_schedule = {dict}\n"),
        format!("app.conf.update(timezone='UTC', beat_schedule={dict})"),
        format!("app.conf['beat_schedule'] = {dict}"),
        format!("CELERY = {{'broker_url': 'x', 'beat_schedule': {dict}}}"),
        format!("SCHEDULE = {dict}\napp.conf.beat_schedule = SCHEDULE\n"),
        format!("CELERYBEAT_SCHEDULE = {dict}\napp = Celery(beat_schedule=CELERYBEAT_SCHEDULE)\n"),
        "app.conf.beat_schedule['a'] = {'task': 't', 'schedule': 5}\n".to_owned(),
        format!("app.conf.beat_schedule = {{}}\napp.conf.beat_schedule.update({dict})\n"),
        "beat_schedule.update(a=dict(task='t', schedule=5))".to_owned(),
        r#"{"a": {"task": "t", "schedule": 5}}"#.to_owned(),
        r#"{"beat_schedule": {"a": {"task": "t", "schedule": {"type": "interval", "every": 5.0}}}}"#.to_owned(),
    ] {
        let import = of(&text);
        assert_eq!(import.left_out, [], "{text}");
        assert_eq!(import.schedules.len(), 1, "{text}");
        assert_eq!(
            (&*import.schedules[0].name, &import.schedules[0].definition["when"]),
            ("a", &json!({"every": "5s"}))
        );
    }
    for text in ["", "x = 1", "print('beat_schedule')", "[1]", "if beat_schedule == {}: pass"] {
        assert_eq!(import(text, None), Err(ImportError::NothingFound), "{text}");
    }
    assert_eq!(import(&" ".repeat(MAX_BYTES + 1), None), Err(ImportError::TooLong(MAX_BYTES + 1)));
}

#[test]
fn nothing_that_is_not_read_goes_unsaid() {
    let import = of("
app.conf.beat_schedule = {
    'a': {'task': 't', 'schedule': 5},
    **OTHERS,
    f'{x}': {'task': 't', 'schedule': 5},
    'a': {'task': 't', 'schedule': 6},
}
other.conf.beat_schedule = load()

@app.on_after_configure.connect
def setup(sender, **kwargs):
    sender.add_periodic_task(10.0, test.s('hello'), name='add every 10')
    sender.add_periodic_task(crontab(hour=7), test.s())
");
    let left_out: Vec<_> = import.left_out.iter().map(|left| (left.line, left.name.as_str())).collect();
    let expected = [
        (3, "a"),
        (4, "**OTHERS"),
        (5, "f'{x}'"),
        (8, "beat_schedule"),
        (12, "add every 10"),
        (13, "add_periodic_task"),
    ];
    assert_eq!(left_out, expected);
    assert!(import.left_out[0].reason.contains("line 6"));
    assert_eq!(import.schedules[0].definition["when"]["every"], "6s");
}

#[test]
fn what_is_not_closed_is_an_error_with_its_line() {
    for (text, line, part) in [
        ("beat_schedule = {\n", 1, "`{` is not closed"),
        ("x = 1\nbeat_schedule = {'a': {'task': 't', 'schedule': 5}\ny = 2\n", 2, "`{` is not closed"),
        ("beat_schedule = {\n'a': {'task': 't', 'schedule': 5,\n'args': [1, 2}}", 3, "`[` is not closed"),
        ("beat_schedule = {\n'a': {'task': 't', 'schedule': crontab(hour=3}}", 2, "`(` is not closed"),
        ("beat_schedule = {\n'a': {'task': 't, 'schedule': 5}}", 2, "a text is not closed"),
        ("\nbeat_schedule = {}}", 2, "`}` closes nothing"),
    ] {
        match import(text, None) {
            Err(ImportError::NotClosed { line: found, what }) => {
                assert!(found == line && what.contains(part), "{text}: {found}: {what}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(import("x = 'a\\\r\nb'\r\nbeat_schedule = {}\r\n", None).is_ok());
}

/// Names that are taken over, and those that are left out with line and reason.
fn sorted(text: &str) -> (Vec<String>, Vec<String>) {
    let import = of(text);
    let left = |left: &LeftOut| format!("{} {}: {}", left.line, left.name, left.reason);
    let taken = import.schedules.iter().map(|imported| imported.name.clone()).collect();
    (taken, import.left_out.iter().map(left).collect())
}

#[test]
fn what_is_changed_afterwards_is_left_out_or_listed() {
    let begin = "app.conf.beat_schedule = {\n'a': {'task': 't', 'schedule': 5},\n'b': {'task': 't', 'schedule': 5}}\n";
    let all = ["a", "b"].as_slice();
    for (after, taken, part) in [
        ("del app.conf.beat_schedule['a']", &all[1..], "2 a: it is deleted in line 4"),
        ("app.conf.beat_schedule.pop('b', None)", &all[..1], "3 b: it is deleted in line 4"),
        ("x = app.conf['beat_schedule'].pop('b')", &all[..1], "3 b: it is deleted in line 4"),
        ("app.conf.beat_schedule.clear()", &[], "3 b: it is deleted in line 4"),
        ("del app.conf.beat_schedule", &[], "3 b: it is deleted in line 4"),
        ("app.conf.beat_schedule = {}", &[], "2 a: beat_schedule is set again in line 4"),
        ("app.conf.beat_schedule = load()", &[], "4 beat_schedule: the schedules are no dict"),
        ("app.conf.beat_schedule['a']['schedule'] = 9", &all[1..], "2 a: it is changed in line 4"),
        ("app.conf.beat_schedule['a'].update(x)", &all[1..], "2 a: it is changed in line 4"),
        ("del app.conf.beat_schedule['a']['args']", &all[1..], "2 a: it is changed in line 4"),
        ("del app.conf.beat_schedule[name]", all, "4 beat_schedule: which schedule is deleted here is not known"),
        ("app.conf.beat_schedule.update(load())", all, "4 beat_schedule: the schedules are no dict"),
        ("app.conf.beat_schedule.update(**X)", all, "4 beat_schedule: the schedules are no dict"),
        ("app.conf.beat_schedule.popitem()", all, "4 beat_schedule: what `popitem` changes"),
        ("if X:\n  del app.conf.beat_schedule['a']", all, "5 a: that it is deleted is not followed: it is under `if`"),
        ("if f(X): del app.conf.beat_schedule['a']", all, "4 a: that it is deleted is not followed: it is under `if`"),
        ("if f(X): app.conf.beat_schedule['a']['x'] = 1", all, "4 a: that it is changed is not followed"),
        ("if X:\n  app.conf.beat_schedule = dict()", all, "5 beat_schedule: that it is set is not followed"),
        ("if X: app.conf.beat_schedule.pop('a')", all, "4 a: that it is deleted is not followed: it is under `if`"),
        ("def f():\n  app.conf.beat_schedule.clear()", all, "5 beat_schedule: it is deleted within line 4"),
        ("for x in y:\n  app.conf.beat_schedule[x] = {}", all, "5 x: its name is no text"),
        ("try:\n  app.conf.beat_schedule = {}\nexcept E: pass", all, "5 beat_schedule: that it is set is not followed"),
    ] {
        let (found, left) = sorted(&format!("{begin}{after}\n"));
        assert_eq!(found, taken, "{after}");
        assert!(left.iter().any(|left| left.starts_with(part)), "{after}: {left:?}");
    }
    for harmless in ["print(app.conf.beat_schedule['a']['task'])", "x = app.conf.beat_schedule['a']['task']"] {
        assert_eq!(sorted(&format!("{begin}{harmless}\n")), (vec!["a".into(), "b".into()], vec![]), "{harmless}");
    }
    let again =
        format!("{begin}app.conf.beat_schedule.clear()\napp.conf.beat_schedule['a'] = {{'task': 't', 'schedule': 6}}");
    assert_eq!(sorted(&again).0, ["a"]);
    let named = "S = {'a': {'task': 't', 'schedule': 5}}\nS['b'] = load()\nbeat_schedule = S\ndel S['a']\n";
    let (_, left) = sorted(named);
    assert!(left.len() == 2 && left[0].starts_with("2 S") && left[1].starts_with("4 S"), "{left:?}");
}

#[test]
fn what_is_under_a_condition_is_left_out_and_what_is_in_a_function_has_a_note() {
    let dict = "{'a': {'task': 't', 'schedule': 5}}";
    for (word, text) in [
        ("if", format!("if PROD:\n    beat_schedule = {dict}\n")),
        ("else", format!("if PROD:\n    pass\nelse:\n    app.conf.update(beat_schedule={dict})\n")),
        ("for", format!("for x in y:\n\tbeat_schedule.update({dict})\n")),
        ("try", format!("try:\n    S = {dict}\nexcept E:\n    pass\nbeat_schedule = S\n")),
        ("while", "def f():\n  while x:\n    beat_schedule['a'] = {'task': 't', 'schedule': 5}\n".to_owned()),
    ] {
        let (taken, left) = sorted(&text);
        assert_eq!(taken, [""; 0], "{text}");
        assert!(left.len() == 1 && left[0].contains(&format!("a: it is under `{word}` in line ")), "{text}: {left:?}");
    }
    for (word, text) in [
        ("def", format!("def make(app):\n    app.conf.beat_schedule = {dict}\n    return app\n")),
        ("with", format!("with x:\n    beat_schedule = {dict}\n")),
    ] {
        let import = of(&text);
        assert_eq!((import.schedules.len(), import.left_out.len()), (1, 0), "{text}");
        assert!(import.schedules[0].notes[0].text.contains(&format!("under `{word}` in line 1")), "{text}");
    }
    let import = of(&format!("if x:\n    y = 1\nbeat_schedule = {dict}\nif z:\n    timezone = 'Asia/Tokyo'\n"));
    assert_eq!((import.schedules.len(), &import.zone, &*import.left_out[0].name), (1, &None, "timezone"));
}

#[test]
fn the_zone_is_that_of_the_call_or_of_the_file_and_belongs_to_crontabs() {
    let text = "app.conf.timezone = 'Europe/Berlin'
beat_schedule = {'a': {'task': 't', 'schedule': crontab(hour=3)}, 'b': {'task': 't', 'schedule': 5}}";
    let zones = |zone| {
        let import = import(text, zone).unwrap();
        let zones = import.schedules.iter().map(|schedule| schedule.definition.get("zone").cloned());
        (import.zone.clone(), zones.collect::<Vec<_>>())
    };
    assert_eq!(zones(None), (Some("Europe/Berlin".into()), vec![Some("Europe/Berlin".into()), None]));
    assert_eq!(zones(Some("Asia/Tokyo")).1, [Some("Asia/Tokyo".into()), None]);
    let wrong = import(text, Some("Europe/Berlim")).unwrap();
    assert!(wrong.left_out[0].reason.contains("Europe/Berlin"), "{:?}", wrong.left_out);
}

#[test]
fn names_become_those_that_schedules_can_have_and_each_is_there_once() {
    let entry = "{'task': 't', 'schedule': 5}";
    let long = "x".repeat(150);
    let names = ["Send the report!", "Send the report?", "10 seconds", "a/b:c", "é", &long, &format!("{long}y")];
    let dict: Vec<String> = names.iter().map(|name| format!("'{name}': {entry}")).collect();
    let import = of(&format!("beat_schedule = {{{}}}", dict.join(",")));
    let found: Vec<_> = import.schedules.iter().map(|schedule| schedule.name.as_str()).collect();
    let (first, second) = ("x".repeat(100), format!("{}-2", "x".repeat(98)));
    assert_eq!(found, ["Send-the-report", "Send-the-report-2", "_10-seconds", "a-b-c", "_", &first, &second]);
    assert!(import.schedules[0].notes[0].text.contains("Send the report!"));
}

#[test]
fn json_has_calls_as_texts_or_as_objects() {
    let import = of(r#"{
        "a": {"task": "t", "schedule": "crontab(minute=0, hour=3)", "args": ["é\/"], "enabled": false},
        "b": {"task": "t", "schedule": {"crontab": {"minute": "0", "hour": 3}}},
        "c": {"task": "t", "schedule": {"__type__": "solar", "event": "sunrise", "latitude": 1, "longitude": 2}},
        "d": {"task": "t", "schedule": "0 3 * * *"},
        "e": {"task": "t", "schedule": {"timedelta": {"minutes": 2}}, "kwargs": null},
        "f": {"task": "t", "schedule": {"seconds": 7}}
    }"#);
    assert_eq!(import.left_out, []);
    let whens: Vec<_> = import.schedules.iter().map(|schedule| schedule.definition["when"].clone()).collect();
    let three = json!({"cron": "0 3 * * *", "days": "and"});
    assert_eq!([&whens[0], &whens[1], &whens[3]], [&three; 3]);
    assert_eq!(whens[2]["solar"]["event"], "sunrise");
    assert_eq!((&whens[4], &whens[5]), (&json!({"every": "2m"}), &json!({"every": "7s"})));
    let first = &import.schedules[0].definition;
    assert_eq!((&first["start"]["args"][0], &first["paused"]), (&json!("é/"), &json!(true)));
    assert_eq!(import.schedules[1].line, 3);
}

/// Pieces of such files, put together in any way.
fn piece() -> impl Strategy<Value = String> {
    let known = [
        "beat_schedule",
        "=",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        "'a'",
        "\"",
        "'",
        "'''",
        "\n",
        " ",
        "#",
        "\\",
        "crontab",
        "timedelta",
        "solar",
        "schedule",
        "'task'",
        "'schedule'",
        "'args'",
        "'options'",
        "hour",
        "5",
        "1.5",
        "1e400",
        "0x",
        "-",
        "*",
        "**",
        "/",
        "%",
        ".",
        "update",
        "None",
        "lambda",
        "b'",
        "f\"",
        "é",
        "\u{2028}",
        "'\\x",
        "'\\u12'",
        "99999999999999999999",
        "dict",
        "range",
        "add_periodic_task",
        "timezone",
        "{'a': {'task': 't', 'schedule': ",
        "crontab(hour=",
        "\0",
        "...",
        ";",
        "@",
    ];
    prop_oneof![
        8 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic_and_all_names_are_good(pieces in prop::collection::vec(piece(), 0..60)) {
        let text = pieces.concat();
        for text in [format!("beat_schedule = {{{text}"), format!("{{'a': {{'task': 't', 'schedule': {text}}}}}"), text] {
            let _ = import(&text, None);
            // Also of what is broken.
            let Ok(import) = read(&literal::Source::new(&text, false), None) else { continue };
            for imported in import.schedules {
                prop_assert!(!imported.name.is_empty() && imported.name.len() <= MAX_BYTES);
                prop_assert!(imported.definition.contains_key("when"));
            }
        }
    }

    #[test]
    fn literals_come_back_as_the_json_that_they_are(value in json_value()) {
        let text = json!({"a": {"task": "t", "schedule": 5, "kwargs": {"value": value}}}).to_string();
        let imported = of(&text);
        prop_assert_eq!(&imported.schedules[0].definition["start"]["kwargs"]["value"], &value);
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn long_texts_of_one_kind_are_read_to_their_end_and_nothing_is_unsaid() {
    // Each would take minutes if a part of it were read again for each other part, or end in a stack that is full.
    let units = [
        "a + ",
        "'a' + ",
        "(",
        "[1, ",
        "{'a': ",
        "x = ",
        "x\n",
        "beat_schedule = ",
        "beat_schedule = x\n",
        "beat_schedule: x ",
        "f(",
        "-",
        "'",
        "\"\"\" ",
        "'a': {'task': 't', 'schedule': 5}, ",
        "beat_schedule['a'] = 1\n",
        "'beat_schedule': ",
        "a.",
        "timezone = ",
        "add_periodic_task(",
        "beat_schedule.update(",
        "crontab(",
        "x = (",
        "beat_schedule = {'a': {}}\n",
        "del beat_schedule['a']\n",
        "beat_schedule['a']['b'] = 1\n",
        "beat_schedule[",
        "beat_schedule.pop(",
        "if x: beat_schedule = {}\n",
        "; beat_schedule",
        "beat_schedule = (",
        "'a' 'b' ",
    ];
    for unit in units {
        for begin in ["", "beat_schedule = {", "{'a': {'task': 't', 'schedule': "] {
            let text = format!("{begin}{}", unit.repeat(30_000 / unit.len()));
            let source = literal::Source::new(&text, false);
            let _ = import(&text, None);
            let found = read(&source, None).map(|import| import.schedules.len() + import.left_out.len());
            assert!(begin.is_empty() || found.is_ok_and(|found| found > 0), "{begin}{unit}");
        }
    }
}
