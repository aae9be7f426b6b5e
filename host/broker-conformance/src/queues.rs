//! Who is next.

use super::*;

fn of(tenant_name: &str, n: u64) -> NewJob {
    NewJob { tenant: tenant(tenant_name), ..new_job(n) }
}

fn tenants(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|d| d.tenant.as_str()).collect()
}

pub async fn priority_nine_is_first_and_age_decides_among_equals(s: Subject) {
    for (n, priority) in [(1, 0), (2, 9), (3, 5), (4, 9)] {
        s.add(NewJob { priority, ..new_job(n) }).await;
    }
    let ids: Vec<JobId> = s.claim(10).await.into_iter().map(|d| d.id).collect();
    assert_eq!(ids, [2, 4, 3, 1].map(job_id));
}

pub async fn queues_are_served_in_the_order_of_the_claim(s: Subject) {
    s.add(NewJob { queue: queue_name("low"), priority: 9, ..new_job(1) }).await;
    s.add(NewJob { queue: queue_name("high"), priority: 0, ..new_job(2) }).await;
    s.add(NewJob { queue: queue_name("unserved"), ..new_job(3) }).await;
    let claimed = s.broker.claim(&claim_of("w1", &["high", "low"], 10)).await.unwrap();
    assert_eq!(claimed.iter().map(|d| d.id).collect::<Vec<_>>(), [2, 1].map(job_id));
}

pub async fn tenants_take_turns_whatever_their_backlog(s: Subject) {
    for n in 0..20 {
        s.add(of("noisy", n)).await;
    }
    s.add(of("quiet", 100)).await;
    s.add(of("quiet", 101)).await;
    assert_eq!(tenants(&s.claim(6).await), ["noisy", "quiet", "noisy", "quiet", "noisy", "noisy"]);
}

pub async fn a_tenant_that_comes_late_does_not_catch_up_on_the_past(s: Subject) {
    for n in 0..20 {
        s.add(of("noisy", n)).await;
    }
    assert_eq!(s.claim(10).await.len(), 10);
    for n in 100..110 {
        s.add(of("quiet", n)).await;
    }
    assert_eq!(tenants(&s.claim(7).await), ["quiet", "quiet", "noisy", "quiet", "noisy", "quiet", "noisy"]);
}

pub async fn a_tenant_with_one_job_at_a_time_starves_nobody(s: Subject) {
    const JOBS: u64 = 3;
    for n in 0..JOBS {
        s.add(of("default", n)).await;
    }
    // Its name is the first among equals, and it is back as soon as it was served.
    s.add(of("acme", 100)).await;
    let mut served = 0;
    for n in 0..2 * JOBS {
        if s.claim_one().await.tenant == tenant("acme") {
            s.add(of("acme", 101 + n)).await;
        } else {
            served += 1;
        }
    }
    assert_eq!(served, JOBS);
}

fn at(tenant_name: &str, queue: &str, n: u64) -> NewJob {
    NewJob { queue: queue_name(queue), ..of(tenant_name, n) }
}

/// The queues of jobs that were claimed, behind their tenants.
fn places(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| format!("{} {}", d.tenant, d.queue)).collect()
}

pub async fn a_quiet_tenants_job_is_the_next_one_whatever_queues_others_fill(s: Subject) {
    let most = limits().max_queues;
    for n in 0..10 * most {
        for noisy in ["a", "z"] {
            s.add(at(noisy, &format!("q{}", n % most), n)).await;
        }
    }
    let all = claim_of_all_but(&[], 1);
    let named = claim_of("w1", &["q0", "q1", "q2", "quiet", "q3"], 1);
    for (n, queue, claim) in [(100, "quiet", &all), (101, "q3", &all), (102, "quiet", &named), (103, "q3", &named)] {
        let next = Claim { max: 7, ..claim_of_all_but(&[], 7) };
        assert_eq!(s.broker.claim(&next).await.unwrap().len(), 7);
        s.add(at("m", queue, n)).await;
        let seed = Token::new(format!("quiet{n}")).unwrap();
        let claim = Claim { token_seed: seed, ..claim.clone() };
        assert_eq!(places(&s.broker.claim(&claim).await.unwrap()), [format!("m {queue}")]);
    }
}

pub async fn one_that_asks_all_queues_asks_those_of_a_tenant_in_turn(s: Subject) {
    for (n, queue) in (0..).zip(["b", "b", "b", "a", "a", "c"]) {
        s.add(at("t1", queue, n)).await;
    }
    // A queue that opens comes behind the one that was served least.
    let order = ["b", "a", "b", "c", "a", "b"].map(|queue| format!("t1 {queue}"));
    let mut claimed = s.broker.claim(&claim_of_all_but(&[], 4)).await.unwrap();
    claimed.extend(s.broker.claim(&claim_of_all_but(&[], 4)).await.unwrap());
    assert_eq!(places(&claimed), order);
}

pub async fn a_claim_goes_on_with_a_queue_of_a_tenant_as_often_as_it_says(s: Subject) {
    for n in 0..8 {
        for (queue, first) in [("b", 0), ("a", 10), ("c", 20)] {
            s.add(at("t1", queue, first + n)).await;
        }
        s.add(at("t2", "b", 30 + n)).await;
        s.add(at("t2", "d", 40 + n)).await;
    }
    let in_order = |queues: &str| queues.chars().map(|queue| format!("t1 {queue}")).collect::<Vec<_>>();
    let mut of_t1 = Vec::new();
    for (max, queues) in [(16_u32, "bbbbaaaa"), (16, "ccccbbbb"), (9, "aaacccac")] {
        let claim = Claim { in_row: max.div_ceil(4), ..claim_of_all_but(&[], max) };
        let claimed = places(&s.broker.claim(&claim).await.unwrap());
        // Tenants take turns, whatever queues they have.
        let mine: Vec<String> = claimed.iter().filter(|place| place.starts_with("t1")).cloned().collect();
        assert_eq!(mine, in_order(queues), "{claimed:?}");
        of_t1.extend(mine);
    }
    assert_eq!(of_t1.len(), 24);
}

pub async fn a_claim_takes_few_jobs_of_the_tenants_that_it_limits(s: Subject) {
    for n in 0..5 {
        for (tenant, first) in [("long", 0), ("longer", 10), ("short", 20)] {
            s.add(at(tenant, &format!("q{}", n % 2), first + n)).await;
        }
    }
    // What has expired is no job that it takes.
    let expired = NewJob { expires_at: Some(1), priority: 9, ..at("long", "q0", 100) };
    s.add(expired).await;
    let limited = limited_to(1, &["long", "longer", "unknown"]);
    for base in [claim_of_all_but(&[], 4), claim_of("w1", &["q0", "q1"], 4)] {
        let claimed = s.broker.claim(&Claim { limited: limited.clone(), ..base }).await.unwrap();
        let of_short = claimed.iter().filter(|d| d.tenant == tenant("short")).count();
        assert_eq!((claimed.len(), of_short), (if of_short == 3 { 4 } else { 3 }, claimed.len() - 1));
    }
    // Others had nothing left: they wait for a claim that does not limit them.
    let none = Claim { limited: LimitedTenants { max: 0, ..limited }, ..claim_of_all_but(&[], 9) };
    assert_eq!(s.broker.claim(&none).await.unwrap(), []);
    assert_eq!(s.broker.claim(&claim_of_all_but(&[], 9)).await.unwrap().len(), 8);
}

pub async fn a_limited_tenant_that_is_alone_gets_no_more_either(s: Subject) {
    for n in 0..5 {
        s.add(at("long", "q", n)).await;
    }
    for (max, queues) in [(0, claim_of_all_but(&[], 4)), (2, claim_of("w1", &["q"], 4)), (1, claim_of_all_but(&[], 4))]
    {
        let claim = Claim { limited: limited_to(max, &["long"]), ..queues };
        assert_eq!(s.broker.claim(&claim).await.unwrap().len(), max as usize);
    }
}

pub async fn queues_that_a_claim_excludes_are_not_asked_and_hold_up_nobody(s: Subject) {
    for n in 0..3 {
        s.add(at(&format!("a{n}"), "gpu", n)).await;
        s.add(at("b", "gpu", 10 + n)).await;
        s.add(at("b", "cpu", 20 + n)).await;
    }
    assert_eq!(places(&s.broker.claim(&claim_of_all_but(&["gpu"], 2)).await.unwrap()), ["b cpu", "b cpu"]);
    let left = ["a0 gpu", "a1 gpu", "a2 gpu", "b gpu", "b gpu", "b gpu", "b cpu"];
    assert_eq!(places(&s.broker.claim(&claim_of_all_but(&[], 10)).await.unwrap()), left);
}

pub async fn queues_are_strict_inside_a_tenant_and_tenants_take_turns_over_all_of_them(s: Subject) {
    for n in 0..3 {
        s.add(at("a", "low", 10 + n)).await;
        s.add(at("a", "high", 20 + n)).await;
        s.add(at("b", "low", 30 + n)).await;
        s.add(at("c", "unserved", 40 + n)).await;
    }
    let order = ["a high", "b low", "a high", "b low", "a high", "b low", "a low", "a low", "a low"];
    let mut claimed = Vec::new();
    for max in [1, 3, 2, 10] {
        claimed.extend(s.broker.claim(&claim_of("w1", &["high", "low", "high"], max)).await.unwrap());
    }
    assert_eq!(places(&claimed), order);
}

pub async fn a_turn_counts_in_whatever_queue_it_was_taken(s: Subject) {
    for n in 0..4 {
        s.add(at("a", "one", n)).await;
        s.add(at("a", "two", 10 + n)).await;
        s.add(at("b", "two", 20 + n)).await;
    }
    let one = s.broker.claim(&claim_of("w1", &["one"], 3)).await.unwrap();
    assert_eq!(places(&one), ["a one", "a one", "a one"]);
    let two = s.broker.claim(&claim_of("w2", &["two"], 5)).await.unwrap();
    assert_eq!(places(&two), ["b two", "b two", "b two", "a two", "b two"]);
    assert_eq!(places(&s.broker.claim(&claim_of_all_but(&[], 9)).await.unwrap()), ["a two", "a one", "a two", "a two"]);
}

pub async fn jobs_that_nobody_serves_earn_their_tenant_no_turns(s: Subject) {
    s.add(at("a", "unserved", 0)).await;
    for n in 0..10 {
        s.add(of("b", 10 + n)).await;
    }
    assert_eq!(s.claim(8).await.len(), 8);
    for n in 0..6 {
        s.add(of("a", 20 + n)).await;
    }
    assert_eq!(tenants(&s.claim(7).await), ["a", "a", "a", "b", "a", "b", "a"]);
}

pub async fn ready_queues_are_those_with_a_job_to_hand_out_for_anybody(s: Subject) {
    let ready = async || -> Vec<String> {
        s.broker.ready_queues().await.unwrap().into_iter().map(|q| q.as_str().to_owned()).collect()
    };
    let place = |t: &str, q: &str, n: u64| NewJob { queue: queue_name(q), ..of(t, n) };
    assert!(ready().await.is_empty());
    for (n, (t, q)) in (0..).zip([("t2", "late"), ("t1", "default"), ("t2", "default"), ("t1", "early")]) {
        s.add(place(t, q, n)).await;
    }
    s.add(NewJob { start: Start::After(1_000), ..place("t2", "delayed", 10) }).await;
    assert_eq!(ready().await, ["default", "early", "late"]);
    // One that is paused for one tenant is ready for the other.
    for (t, q) in [("t1", "default"), ("t2", "late")] {
        s.broker.set_paused(&tenant(t), &queue_name(q), true).await.unwrap();
    }
    assert_eq!(ready().await, ["default", "early"]);
    s.broker.set_paused(&tenant("t2"), &queue_name("late"), false).await.unwrap();
    let held = s.broker.claim(&claim_of("w1", &["early", "default"], 10)).await.unwrap();
    assert_eq!(held.len(), 2);
    assert_eq!(ready().await, ["late"]);
    s.settle(&held[0], Resolution::Release).await;
    s.pass(1_000);
    s.broker.promote(10).await.unwrap();
    assert_eq!(ready().await, ["delayed", "early", "late"]);
}

pub async fn a_paused_queue_hands_out_nothing_until_resumed(s: Subject) {
    s.add(new_job(1)).await;
    let (t, q) = (tenant("t1"), queue_name("default"));
    assert!(s.broker.set_paused(&t, &q, true).await.unwrap());
    s.add(new_job(2)).await;
    assert!(s.claim(10).await.is_empty());
    assert!(s.queue().await.paused);
    assert_eq!(s.queue().await.queued, 2);
    // A pause is the tenant's own.
    s.add(of("t2", 3)).await;
    assert_eq!(s.claim(10).await.len(), 1);
    assert!(s.broker.set_paused(&t, &q, false).await.unwrap());
    assert_eq!(s.claim(10).await.len(), 2);
}

pub async fn a_queue_nobody_used_cannot_be_resumed(s: Subject) {
    assert!(!s.broker.set_paused(&tenant("t1"), &queue_name("typo"), false).await.unwrap());
    assert!(s.broker.queues(&tenant("t1")).await.unwrap().is_empty());
}

pub async fn counts_follow_every_step(s: Subject) {
    let counts = |q: QueueStats| (q.queued, q.running, q.delayed);
    s.add(new_job(1)).await;
    s.add(new_job(2)).await;
    s.add(NewJob { start: Start::After(1_000), ..new_job(3) }).await;
    assert_eq!(counts(s.queue().await), (2, 0, 1));
    let first = s.claim_one().await;
    assert_eq!(counts(s.queue().await), (1, 1, 1));
    s.settle(&first, retry(500)).await;
    assert_eq!(counts(s.queue().await), (1, 0, 2));
    s.pass(1_000);
    s.broker.promote(10).await.unwrap();
    assert_eq!(counts(s.queue().await), (3, 0, 0));
    let claimed = s.claim(3).await;
    s.settle(&claimed[0], succeed("1")).await;
    s.settle(&claimed[1], fail()).await;
    s.settle(&claimed[2], Resolution::Release).await;
    assert_eq!(counts(s.queue().await), (1, 0, 0));
    s.broker.cancel(&tenant("t1"), claimed[2].id, true).await.unwrap();
    assert_eq!(counts(s.queue().await), (0, 0, 0));
}

pub async fn a_queue_says_how_long_its_oldest_job_has_been_ready(s: Subject) {
    let ages = async || -> Vec<(String, u64)> {
        let ages = s.broker.oldest_ready(&tenant("t1")).await.unwrap();
        ages.into_iter().map(|(queue, age)| (queue.to_string(), age)).collect()
    };
    let only = |age: u64| vec![("default".to_owned(), age)];
    assert_eq!(ages().await, []);
    // Not since it was submitted, and not while it waits for its time.
    s.add(NewJob { start: Start::After(1_000), ..new_job(1) }).await;
    s.pass(1_000);
    assert_eq!(ages().await, []);
    s.broker.promote(10).await.unwrap();
    s.pass(50);
    assert_eq!(ages().await, only(50));
    // A later one is not older, whatever its priority; one in another queue is its own.
    s.add(NewJob { priority: 9, ..new_job(2) }).await;
    s.add(NewJob { queue: queue_name("other"), ..new_job(3) }).await;
    s.add(NewJob { tenant: tenant("t2"), ..new_job(4) }).await;
    s.pass(100);
    assert_eq!(ages().await, [("default".to_owned(), 150), ("other".to_owned(), 100)]);
    // With what runs it is over; what is tried again or handed back is ready anew.
    let claimed = s.claim(2).await;
    assert_eq!(claimed.len(), 2);
    let claimed = [claimed, s.claim(2).await].concat();
    s.broker.claim(&claim_of("w1", &["other"], 1)).await.unwrap();
    assert_eq!(ages().await, []);
    let of = |n: u64| claimed.iter().find(|delivery| delivery.id == job_id(n)).unwrap();
    s.settle(of(1), Resolution::Release).await;
    s.settle(of(2), retry(500)).await;
    s.pass(500);
    s.broker.promote(10).await.unwrap();
    assert_eq!(ages().await, only(500));
    // One with a limit that may start.
    s.add(NewJob { queue: queue_name("limited"), ..broker_options::capped(5, "mail", 1) }).await;
    s.pass(7);
    assert_eq!(ages().await, [("default".to_owned(), 507), ("limited".to_owned(), 7)]);
    // Lists and records say nothing of it.
    assert_eq!(s.read(job_id(1)).await.due_at, None);
    // A node is ready since what it waited for has ended.
    let f =
        s.begin_json(r#"{"chain":[{"task":"a","options":{"queue":"c"}},{"task":"b","options":{"queue":"c"}}]}"#).await;
    s.pass(1_000);
    let first = s.broker.claim(&claim_of("w1", &["c"], 1)).await.unwrap().remove(0);
    s.settle(&first, succeed("1")).await;
    s.pass(3);
    assert!(ages().await.contains(&("c".to_owned(), 3)), "{:?}", ages().await);
    assert_eq!(f.job_at(1).await.due_at, None);
}

/// The queues of tenant `t1`, by name.
async fn names(s: &Subject) -> Vec<String> {
    s.broker.queues(&tenant("t1")).await.unwrap().into_iter().map(|queue| queue.name.to_string()).collect()
}

async fn delete(s: &Subject, name: &str) -> QueueDeleted {
    s.broker.delete_queue(&tenant("t1"), &queue_name(name)).await.unwrap()
}

/// Lets so much time pass, and a prune.
async fn prune_after(s: &Subject, ms: u64) {
    s.pass(ms);
    s.broker.prune(100).await.unwrap();
}

pub async fn a_queue_that_is_empty_and_unused_for_a_day_is_forgotten(s: Subject) {
    s.add(NewJob { result_ttl_ms: 10 * QUEUE_IDLE_MS, ..new_job(1) }).await;
    s.settle(&s.claim_one().await, succeed("1")).await;
    prune_after(&s, QUEUE_IDLE_MS - 1).await;
    assert_eq!(names(&s).await, ["default"]);
    // A job that came and went counts from when it came.
    s.add(new_job(2)).await;
    s.settle(&s.claim_one().await, succeed("1")).await;
    prune_after(&s, 1).await;
    prune_after(&s, QUEUE_IDLE_MS - 2).await;
    assert_eq!(names(&s).await, ["default"]);
    prune_after(&s, 1).await;
    assert_eq!((names(&s).await, s.state(job_id(1)).await), (vec![], JobState::Succeeded));
    assert!(!s.broker.set_paused(&tenant("t1"), &queue_name("default"), false).await.unwrap());
    s.add(new_job(3)).await;
    assert_eq!((s.queue().await.queued, s.claim_one().await.id), (1, job_id(3)));
}

pub async fn a_queue_with_jobs_or_a_control_is_not_forgotten(s: Subject) {
    let long = |n: u64, queue: &str| NewJob {
        queue: queue_name(queue),
        dead_ttl_ms: 10 * QUEUE_IDLE_MS,
        start: if queue == "delayed" { Start::After(5 * QUEUE_IDLE_MS) } else { Start::Now },
        ..new_job(n)
    };
    for (n, queue) in [(1, "dead"), (2, "delayed"), (3, "paused"), (4, "queued")] {
        s.add(long(n, queue)).await;
    }
    let claim = async |queue: &str| s.broker.claim(&claim_of("w1", &[queue], 1)).await.unwrap().remove(0);
    s.settle(&claim("dead").await, fail()).await;
    s.settle(&claim("paused").await, succeed("1")).await;
    assert!(s.broker.set_paused(&tenant("t1"), &queue_name("paused"), true).await.unwrap());
    for _ in 0..2 {
        prune_after(&s, QUEUE_IDLE_MS).await;
        assert_eq!(names(&s).await, ["dead", "delayed", "paused", "queued"]);
    }
    // Another day goes by after they were seen in use.
    assert!(s.broker.set_paused(&tenant("t1"), &queue_name("paused"), false).await.unwrap());
    s.settle(&claim("queued").await, succeed("1")).await;
    prune_after(&s, QUEUE_IDLE_MS - 1).await;
    assert_eq!(names(&s).await, ["dead", "delayed", "paused", "queued"]);
    prune_after(&s, 1).await;
    assert_eq!(names(&s).await, ["dead", "delayed"]);
}

pub async fn a_queue_that_was_forgotten_makes_room_for_another(s: Subject) {
    let most = limits().max_queues;
    for n in 0..most {
        s.add(NewJob { queue: queue_name(&format!("q{n}")), ..new_job(n) }).await;
    }
    let another = NewJob { queue: queue_name("another"), ..new_job(99) };
    assert_eq!(s.broker.submit(std::slice::from_ref(&another)).await.unwrap(), [Submitted::TooManyQueues]);
    s.cancel(job_id(0)).await;
    assert_eq!(delete(&s, "q0").await, QueueDeleted::Deleted);
    s.add(another).await;
    assert_eq!(names(&s).await, ["another", "q1", "q2", "q3"]);
}

pub async fn only_an_empty_queue_is_deleted(s: Subject) {
    assert_eq!(delete(&s, "default").await, QueueDeleted::NotFound);
    s.add(new_job(1)).await;
    assert_eq!(delete(&s, "default").await, QueueDeleted::NotEmpty);
    let running = s.claim_one().await;
    assert_eq!(delete(&s, "default").await, QueueDeleted::NotEmpty);
    s.settle(&running, retry(1_000)).await;
    assert_eq!(delete(&s, "default").await, QueueDeleted::NotEmpty);
    s.pass(1_000);
    s.promote().await;
    s.settle(&s.claim_one().await, fail()).await;
    assert_eq!(delete(&s, "default").await, QueueDeleted::NotEmpty, "it has a dead job");
    s.broker.forget(&tenant("t1"), job_id(1)).await.unwrap();
    let scope = Scope::Queue(queue_name("default"));
    for (concurrency, answer) in [(7, QueueDeleted::NotEmpty), (0, QueueDeleted::Deleted)] {
        let patch = ControlPatch { concurrency: Some(concurrency), ..ControlPatch::default() };
        s.broker.set_control(&tenant("t1"), &scope, &patch).await.unwrap();
        assert_eq!(delete(&s, "default").await, answer);
    }
    assert_eq!((delete(&s, "default").await, names(&s).await), (QueueDeleted::NotFound, vec![]));
}

pub async fn a_forgotten_queue_comes_back_with_a_node_that_waited(s: Subject) {
    let options = r#""options":{"queue":"other"}"#;
    let f = s.begin_json(&format!(r#"{{"chain":[{{"task":"a"}},{{"task":"b",{options}}}]}}"#)).await;
    let a = s.next("a").await;
    // The step that waits is in no queue.
    assert_eq!(delete(&s, "other").await, QueueDeleted::Deleted);
    assert_eq!(names(&s).await, ["default"]);
    s.settle(&a, succeed("1")).await;
    assert_eq!(names(&s).await, ["default", "other"]);
    let b = s.broker.claim(&claim_of("w1", &["other"], 1)).await.unwrap().remove(0);
    // Replaced, it waits again.
    let child = s.replace(&b, 2, r#"{"task":"x"}"#).await;
    assert_eq!(delete(&s, "other").await, QueueDeleted::Deleted);
    s.run("x", succeed("1")).await;
    assert_eq!((child.state().await, f.state().await), (WorkflowState::Succeeded, WorkflowState::Succeeded));
    assert_eq!(names(&s).await, ["default"]);
}

pub async fn a_forgotten_queue_comes_back_with_a_node_that_is_delayed(s: Subject) {
    let options = r#""options":{"queue":"other","delay_ms":1000}"#;
    let f = s.begin_json(&format!(r#"{{"chain":[{{"task":"a"}},{{"task":"b",{options}}}]}}"#)).await;
    let a = s.next("a").await;
    assert_eq!(delete(&s, "other").await, QueueDeleted::Deleted);
    s.settle(&a, succeed("1")).await;
    assert_eq!(delete(&s, "other").await, QueueDeleted::NotEmpty);
    s.broker.cancel_workflow(&tenant("t1"), f.id).await.unwrap();
    assert_eq!(f.state().await, WorkflowState::Revoked);
    assert_eq!((delete(&s, "other").await, names(&s).await), (QueueDeleted::Deleted, vec!["default".to_owned()]));
}
