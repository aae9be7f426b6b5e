//! Controls that an operator sets while the service runs: pauses, limits of tasks, queues and tenants, exclusive
//! queues.

use super::{broker_options::*, *};

async fn listed(s: &Subject) -> Vec<(Scope, Control)> {
    s.broker.controls(&tenant("t1")).await.unwrap()
}

pub async fn controls_are_kept_until_they_say_nothing(s: Subject) {
    s.add(new_job(1)).await;
    assert!(listed(&s).await.is_empty());
    let held = s.control(&task_scope("mail"), cap(3)).await;
    assert_eq!(held, Control { concurrency: 3, ..Control::default() });
    // What a change does not name stays.
    let held = s.control(&task_scope("mail"), rate(Some(per_second(5, 2)))).await;
    assert_eq!(held, Control { concurrency: 3, rate: Some(per_second(5, 2)), ..Control::default() });
    s.control(&Scope::Tenant, paused(true)).await;
    s.control(&queue_scope(), exclusive(true)).await;
    s.control(&task_scope("a"), paused(true)).await;
    let scopes: Vec<Scope> = listed(&s).await.into_iter().map(|(scope, _)| scope).collect();
    assert_eq!(scopes, [Scope::Tenant, queue_scope(), task_scope("a"), task_scope("mail")]);
    assert_eq!(listed(&s).await[3].1, held);
    s.control(&task_scope("mail"), rate(None)).await;
    assert_eq!(s.control(&task_scope("mail"), cap(0)).await, Control::default());
    s.control(&Scope::Tenant, paused(false)).await;
    assert_eq!(listed(&s).await.len(), 2);
    assert!(s.broker.controls(&tenant("t2")).await.unwrap().is_empty());
}

pub async fn a_queue_is_paused_and_limited_before_its_first_job(s: Subject) {
    let t1 = tenant("t1");
    let set =
        async |name: &str, patch| s.broker.set_control(&t1, &Scope::Queue(queue_name(name)), &patch).await.unwrap();
    for nothing in [paused(false), cap(0), rate(None), exclusive(false), ControlPatch::default()] {
        assert_eq!(set("new", nothing).await, ControlSet::Unknown);
    }
    assert!(listed(&s).await.is_empty() && s.broker.queues(&t1).await.unwrap().is_empty());
    assert!(matches!(set("new", paused(true)).await, ControlSet::Set(control) if control.paused));
    assert!(matches!(set("narrow", cap(1)).await, ControlSet::Set(control) if control.concurrency == 1));
    set("new", exclusive(true)).await;
    set("narrow", exclusive(true)).await;
    assert_eq!(listed(&s).await.len(), 2);
    s.add_all([in_queue("new", new_job(1)), in_queue("narrow", new_job(2)), in_queue("narrow", new_job(3))]).await;
    assert!(s.claim_from("new", 10).await.is_empty());
    assert_eq!(s.claim_from("narrow", 10).await.len(), 1);
    set("new", paused(false)).await;
    assert_eq!(s.claim_from("new", 10).await.len(), 1);
    // It counts as one of the tenant's queues, and another tenant has its own.
    for n in 2..limits().max_queues {
        assert!(matches!(set(&format!("q{n}"), paused(true)).await, ControlSet::Set(_)));
    }
    assert_eq!(set("more", paused(true)).await, ControlSet::TooManyQueues);
    assert!(matches!(set("new", paused(true)).await, ControlSet::Set(_)));
    let other = s.broker.set_control(&tenant("t2"), &Scope::Queue(queue_name("more")), &cap(1)).await.unwrap();
    assert!(matches!(other, ControlSet::Set(_)));
}

pub async fn only_so_many_tasks_have_a_control(s: Subject) {
    let t = tenant("t1");
    for n in 0..limits().max_documents {
        s.control(&task_scope(&format!("t{n}")), cap(1)).await;
    }
    let full = s.broker.set_control(&t, &task_scope("more"), &cap(1)).await.unwrap();
    assert_eq!(full, ControlSet::Full);
    // One that is there may be changed, one that says nothing is none, and another tenant has its own.
    s.control(&task_scope("t0"), cap(2)).await;
    assert_eq!(s.control(&task_scope("more"), paused(false)).await, Control::default());
    assert!(matches!(
        s.broker.set_control(&tenant("t2"), &task_scope("more"), &cap(1)).await.unwrap(),
        ControlSet::Set(_)
    ));
    s.control(&task_scope("t0"), cap(0)).await;
    s.control(&task_scope("more"), cap(1)).await;
}

pub async fn a_paused_task_waits_and_the_others_go_on(s: Subject) {
    s.add_all([job_of(1, "mail"), job_of(2, "sms"), laned(3, "mail"), in_queue("other", job_of(4, "mail"))]).await;
    s.control(&task_scope("mail"), paused(true)).await;
    assert_eq!(s.claim_numbers(10).await, [2]);
    assert!(s.claim_from("other", 10).await.is_empty());
    assert!(s.ready().await.is_empty());
    assert!(!s.queue().await.paused, "that says whether the queue is");
    s.add(of_tenant("t2", job_of(5, "mail"))).await;
    assert_eq!(s.claim_numbers(10).await, [5]);
    s.control(&task_scope("mail"), paused(false)).await;
    assert_eq!(s.ready().await, ["default", "other"]);
    assert_eq!(s.claim_numbers(10).await, [1, 3]);
    assert_eq!(numbers(&s.claim_from("other", 10).await), [4]);
}

pub async fn a_paused_tenant_gets_nothing_from_any_queue(s: Subject) {
    s.add_all([new_job(1), in_queue("other", new_job(2)), laned(3, "mail"), of_tenant("t2", new_job(4))]).await;
    s.control(&Scope::Tenant, paused(true)).await;
    assert_eq!(s.claim_numbers(10).await, [4]);
    assert!(s.claim_from("other", 10).await.is_empty() && s.ready().await.is_empty());
    s.add(new_job(5)).await;
    assert!(s.ready().await.is_empty());
    s.control(&Scope::Tenant, paused(false)).await;
    assert_eq!(s.claim_numbers(10).await, [1, 5, 3]);
    assert_eq!(numbers(&s.claim_from("other", 10).await), [2]);
}

pub async fn what_runs_goes_on_when_something_is_paused(s: Subject) {
    s.add_all([job_of(1, "mail"), job_of(2, "mail")]).await;
    let running = s.claim(2).await;
    for scope in [Scope::Tenant, queue_scope(), task_scope("mail")] {
        s.control(&scope, paused(true)).await;
    }
    assert_eq!(s.renew(&running[0]).await, LeaseState::Held);
    s.succeed_all(&running[..1]).await;
    s.settle(&running[1], retry(100)).await;
    s.pass(100);
    assert_eq!(s.promote().await.moved, 1);
    for scope in [Scope::Tenant, queue_scope(), task_scope("mail")] {
        assert!(s.claim(10).await.is_empty());
        s.control(&scope, paused(false)).await;
    }
    assert_eq!(s.claim_numbers(10).await, [2]);
}

pub async fn a_pause_of_a_queue_is_seen_with_its_counts(s: Subject) {
    s.add(new_job(1)).await;
    s.control(&queue_scope(), paused(true)).await;
    assert!(s.queue().await.paused);
    // Other settings of the queue stay when it is resumed by its name.
    s.control(&queue_scope(), cap(7)).await;
    s.broker.set_paused(&tenant("t1"), &queue_name("default"), false).await.unwrap();
    assert_eq!(listed(&s).await, [(queue_scope(), Control { concurrency: 7, ..Control::default() })]);
}

pub async fn jobs_that_expire_while_paused_never_run(s: Subject) {
    s.add_all([NewJob { expires_ms: 100, ..job_of(1, "mail") }, job_of(2, "mail")]).await;
    s.control(&task_scope("mail"), paused(true)).await;
    assert!(s.claim(10).await.is_empty());
    s.pass(100);
    assert_eq!(s.promote().await.expired, 1);
    s.control(&task_scope("mail"), paused(false)).await;
    assert_eq!(s.claim_numbers(10).await, [2]);
}

pub async fn a_control_of_a_task_moves_plain_jobs_to_its_lane_in_their_place(s: Subject) {
    s.add_all([job_of(1, "mail"), job_of(2, "sms"), job_of(3, "mail"), laned(4, "mail")]).await;
    s.control(&task_scope("mail"), cap(1)).await;
    for expected in [vec![2, 1], vec![3], vec![4]] {
        let next = s.claim(10).await;
        assert_eq!(numbers(&next), expected);
        s.succeed_all(&next).await;
    }
}

pub async fn jobs_that_were_moved_stay_in_their_lane_when_the_control_goes(s: Subject) {
    s.add_all((1..=3).map(|n| job_of(n, "mail"))).await;
    s.add(job_of(4, "sms")).await;
    s.control(&task_scope("mail"), cap(1)).await;
    assert_eq!(s.claim_numbers(10).await, [4, 1]);
    s.control(&task_scope("mail"), cap(0)).await;
    assert_eq!(s.claim_numbers(10).await, [2, 3]);
}

pub async fn a_moved_job_can_be_cancelled_lost_and_released(s: Subject) {
    s.add_all((1..=4).map(|n| job_of(n, "mail"))).await;
    s.control(&task_scope("mail"), cap(1)).await;
    let first = s.claim(10).await;
    assert_eq!(numbers(&first), [1]);
    s.cancel(job_id(2)).await;
    s.settle(&first[0], Resolution::Release).await;
    assert_eq!(s.claim_numbers(10).await, [1]);
    s.lose().await;
    s.control(&task_scope("mail"), cap(0)).await;
    assert_eq!(s.queue().await.queued, 3);
    let mut left = s.claim_numbers(10).await;
    left.sort_unstable();
    assert_eq!(left, [1, 3, 4]);
}

pub async fn a_control_says_more_than_the_jobs_of_its_task(s: Subject) {
    s.add_all((1..=6).map(|n| capped(n, "mail", 1))).await;
    s.control(&task_scope("mail"), cap(3)).await;
    assert_eq!(s.claim_numbers(10).await, [1, 2, 3]);
    // Setting anything opens what was blocked; the jobs' own cap counts where the control says nothing.
    s.control(&task_scope("mail"), ControlPatch { rate: Some(Some(per_second(1, 1))), ..cap(0) }).await;
    assert!(s.claim(10).await.is_empty());
    s.control(&task_scope("mail"), cap(5)).await;
    assert_eq!(s.claim_numbers(10).await, [4]);
    assert_eq!(s.next_due().await, Some(START_MS + 1_000));
    s.control(&task_scope("mail"), rate(None)).await;
    assert_eq!(s.claim_numbers(10).await, [5]);
}

pub async fn a_controls_rate_is_instead_of_that_of_the_jobs(s: Subject) {
    s.add_all((1..=6).map(|n| rated(n, per_second(1, 1)))).await;
    s.control(&task_scope("mail"), rate(Some(per_second(2, 2)))).await;
    assert_eq!(s.claim_numbers(10).await, [1, 2]);
    assert_eq!(s.next_due().await, Some(START_MS + 500));
    // What was used stays used when the rate is another: one start, which of this one comes back in a second.
    s.control(&task_scope("mail"), rate(None)).await;
    s.pass(500);
    assert!(s.claim(10).await.is_empty());
    assert_eq!(s.next_due().await, Some(START_MS + 1_500));
}

pub async fn a_task_control_rates_its_plain_jobs_in_all_queues(s: Subject) {
    s.add_all([job_of(1, "mail"), job_of(2, "mail"), in_queue("other", job_of(3, "mail")), job_of(4, "sms")]).await;
    s.control(&task_scope("mail"), rate(Some(per_second(1, 1)))).await;
    let mut started = s.claim_numbers(10).await;
    started.sort_unstable();
    assert_eq!(started, [1, 4]);
    assert!(s.claim_from("other", 10).await.is_empty());
    s.pass(1_000);
    s.promote().await;
    assert_eq!(numbers(&s.claim_from("other", 10).await), [3]);
}

pub async fn a_raised_cap_is_used_at_once_and_a_lowered_one_stops_nothing(s: Subject) {
    s.add_all((1..=6).map(new_job)).await;
    s.control(&queue_scope(), cap(2)).await;
    let running = s.claim(10).await;
    assert_eq!(numbers(&running), [1, 2]);
    let mut work = s.broker.signals(Topic::Work).await.unwrap();
    assert!(s.claim(10).await.is_empty());
    s.control(&queue_scope(), cap(4)).await;
    assert_eq!(hint(&mut work).await, Signal::Work([queue_name("default")].into()));
    assert_eq!(s.claim_numbers(10).await, [3, 4]);
    s.control(&queue_scope(), cap(1)).await;
    assert_eq!(s.renew(&running[0]).await, LeaseState::Held);
    s.succeed_all(&running).await;
    assert!(s.claim(10).await.is_empty(), "two still run");
}

pub async fn an_exclusive_queue_runs_on_one_worker_at_a_time(s: Subject) {
    s.add_all((1..=4).map(new_job)).await;
    s.add(in_queue("other", new_job(5))).await;
    s.control(&queue_scope(), exclusive(true)).await;
    let mine = s.claim_as("w1", 2).await;
    assert_eq!(numbers(&mine), [1, 2]);
    let other = s.broker.claim(&claim_of("w2", &["default", "other"], 10)).await.unwrap();
    assert_eq!(numbers(&other), [5]);
    s.succeed_all(&mine[..1]).await;
    assert!(s.claim_as("w2", 10).await.is_empty());
    assert_eq!(numbers(&s.claim_as("w1", 1).await), [3]);
    // Whoever comes when nothing runs has it.
    s.pass_served(DEFAULT_LEASE_MS).await;
    assert_eq!(s.broker.reap(10).await.unwrap().requeued, 3);
    assert_eq!(numbers(&s.claim_as("w2", 2).await), [2, 3]);
    assert!(s.claim_as("w1", 10).await.is_empty());
    s.control(&queue_scope(), exclusive(false)).await;
    assert_eq!(s.claim_as("w1", 10).await.len(), 1);
}

pub async fn an_exclusive_queue_of_one_tenant_does_not_hold_up_anothers(s: Subject) {
    s.add_all((1..=3).map(new_job)).await;
    s.control(&queue_scope(), exclusive(true)).await;
    assert_eq!(s.claim_as("w1", 1).await.len(), 1);
    s.add_all((11..=12).map(|n| of_tenant("t2", new_job(n)))).await;
    assert_eq!(numbers(&s.claim_as("w2", 10).await), [11, 12]);
    assert_eq!(s.ready().await, ["default"]);
}
