//! Events: those that are over, a clock that goes back, more of them than are kept.

use super::{
    chords::{claim, settle, tenant},
    full::single,
    *,
};

async fn keys_of(broker: &RedisBroker) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["followed", "events:tenant0", "special"] {
        let exists = redis::cmd("EXISTS").arg(format!("{}{name}", broker.connection.keys.prefix())).to_owned();
        if broker.command(&exists).await.unwrap() == Value::Int(1) {
            found.push(name.into());
        }
    }
    found
}

async fn connected(server: &RedisServer) -> (RedisBroker, Arc<AtomicU64>) {
    let (clock, now) = Clock::manual(conformance::START_MS);
    let broker = RedisBroker::connect(RedisConfig { clock, ..RedisConfig::new(server.url()) }).await.unwrap();
    (broker, now)
}

#[tokio::test]
async fn pruning_leaves_nothing_of_a_following_that_is_over() {
    let server = RedisServer::start(Options::default());
    let (broker, now) = connected(&server).await;
    broker.follow(&tenant()).await.unwrap();
    broker.submit(&[single(1)]).await.unwrap();
    assert_eq!(keys_of(&broker).await, ["followed", "events:tenant0", "special"]);
    now.fetch_add(FOLLOW_MS, Ordering::SeqCst);
    broker.prune(10).await.unwrap();
    assert!(keys_of(&broker).await.is_empty());
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn numbers_rise_though_the_clock_goes_back_between_two_followings() {
    let server = RedisServer::start(Options::default());
    let (broker, now) = connected(&server).await;
    broker.follow(&tenant()).await.unwrap();
    broker.submit(&[single(1)]).await.unwrap();
    let first = broker.events(&tenant(), 0, 10).await.unwrap();
    now.fetch_add(FOLLOW_MS, Ordering::SeqCst);
    broker.prune(10).await.unwrap();
    now.store(conformance::START_MS - 10_000, Ordering::SeqCst);
    assert_eq!(broker.follow(&tenant()).await.unwrap(), first.last);
    broker.submit(&[single(2)]).await.unwrap();
    let second = broker.events(&tenant(), first.last, 10).await.unwrap();
    assert_eq!((second.events[0].number, second.last, second.missed), (first.last + 1, first.last + 1, false));
}

#[tokio::test]
async fn the_newest_events_are_kept_and_what_is_gone_is_said_to_be_missed() {
    let server = RedisServer::start(Options::default());
    let (broker, _now) = connected(&server).await;
    let before = broker.follow(&tenant()).await.unwrap();
    let jobs: Vec<NewJob> = (0..MAX_EVENTS / 2).map(single).collect();
    for batch in jobs.chunks(500) {
        broker.submit(batch).await.unwrap();
    }
    assert!(!broker.events(&tenant(), before, 1).await.unwrap().missed);
    let mut ended = 0;
    while ended < jobs.len() {
        let held = broker.claim(&claim(500)).await.unwrap();
        broker.settle(&held.iter().map(settle).collect::<Vec<_>>(), None).await.unwrap();
        ended += held.len();
    }
    let page = broker.events(&tenant(), before, u32::MAX).await.unwrap();
    assert_eq!((page.events.len() as u64, page.missed), (MAX_EVENTS, true));
    assert_eq!(page.last, before + MAX_EVENTS / 2 * 3);
    assert!(page.events.iter().zip(page.last + 1 - MAX_EVENTS..).all(|(event, number)| event.number == number));
    assert_eq!(broker.audit(false).await.unwrap(), []);
}
