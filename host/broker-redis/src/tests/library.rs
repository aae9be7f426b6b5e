//! The function library: loaded again, beside that of another build, and refused when the store is of a newer layout.

use std::{fs, path::Path};

use super::{
    chords::{claim, settle, tenant},
    full::single,
    *,
};
use crate::library::{CODE, Library};

async fn broker(server: &RedisServer) -> RedisBroker {
    RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap()
}

/// A broker of a build with other code.
async fn broker_of_another_build(server: &RedisServer, n: u32) -> RedisBroker {
    let mut broker = broker(server).await;
    Arc::get_mut(&mut broker.connection).unwrap().library = Library::of(&format!("{CODE}-- build {n}\n"));
    broker
}

fn libraries(server: &RedisServer) -> usize {
    let Value::Array(found) = Library::list().query(&mut server.connection()).unwrap() else { panic!("it is no list") };
    found.len()
}

#[test]
fn each_file_parses_alone_and_is_in_the_library() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/library");
    let server = RedisServer::start(Options::default());
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let code = fs::read_to_string(&path).unwrap();
        let parse = redis::cmd("EVAL").arg("return select(2, loadstring(ARGV[1])) or ''").arg(0).arg(&code).to_owned();
        let error: String = parse.query(&mut server.connection()).unwrap();
        assert!(error.is_empty(), "{}: {error}", path.display());
        assert!(CODE.contains(&code), "{} is missing", path.display());
    }
}

#[test]
fn every_call_has_a_second_key_of_the_same_slot_that_never_exists() {
    let call = Library::new().call("settle", Keys::new("umbel", SHARD).routing());
    let packed = String::from_utf8(call.get_packed_command()).unwrap();
    let args: Vec<&str> = packed.split("\r\n").filter(|part| !part.starts_with(['$', '*'])).collect();
    assert_eq!(args[2..5], ["2", "umbel:{s0}:meta", "umbel:{s0}:never"], "{args:?}");
}

#[tokio::test]
async fn functions_that_the_server_forgot_are_loaded_again() {
    let mut server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    broker.submit(&[single(1)]).await.unwrap();
    let () = redis::cmd("FUNCTION").arg("FLUSH").query(&mut server.connection()).unwrap();
    assert_eq!(broker.claim(&claim(1)).await.unwrap().len(), 1);
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    // Nothing was kept, not even the functions.
    assert_eq!(broker.submit(&[single(1)]).await.unwrap(), [Submitted::Created]);
    assert_eq!(libraries(&server), 1);
}

#[tokio::test]
async fn two_builds_work_on_one_store_side_by_side() {
    let server = RedisServer::start(Options::default());
    let (new, old) = (broker(&server).await, broker_of_another_build(&server, 1).await);
    new.submit(&[single(1), single(2)]).await.unwrap();
    let held = [old.claim(&claim(1)).await.unwrap(), new.claim(&claim(1)).await.unwrap()].concat();
    assert_eq!(old.settle(&[settle(&held[1])], None).await.unwrap().0, [Settled::Recorded]);
    assert_eq!(new.settle(&[settle(&held[0])], None).await.unwrap().0, [Settled::Recorded]);
    assert_eq!(libraries(&server), 2);
    assert_eq!(new.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn libraries_of_many_builds_do_not_pile_up_and_those_in_use_come_back() {
    let server = RedisServer::start(Options::default());
    let first = broker_of_another_build(&server, 0).await;
    for n in 1..12 {
        broker_of_another_build(&server, n).await.submit(&[single(n.into())]).await.unwrap();
    }
    let () = redis::cmd("FUNCTION").arg("DELETE").arg(Library::new().name()).query(&mut server.connection()).unwrap();
    broker(&server).await;
    assert_eq!(libraries(&server), 1);
    assert_eq!(first.claim(&claim(20)).await.unwrap().len(), 11);
    assert_eq!(libraries(&server), 2);
}

#[tokio::test]
async fn a_process_that_the_store_has_outgrown_is_refused_by_the_function_itself() {
    let server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    broker.submit(&[single(1)]).await.unwrap();
    let set = |version: u32| {
        let meta = Keys::new("umbel", SHARD).meta();
        let () = redis::cmd("SET").arg(meta).arg(version).query(&mut server.connection()).unwrap();
    };
    set(keys::VERSION + 1);
    for error in [broker.submit(&[single(2)]).await.unwrap_err(), broker.claim(&claim(1)).await.unwrap_err()] {
        let Error::Refused(why) = error else { panic!("{error:?}") };
        assert!(why.contains(&format!("version {}", keys::VERSION + 1)), "{why}");
    }
    set(keys::VERSION);
    assert_eq!(broker.claim(&claim(2)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_that_fails_half_way_leaves_nothing_to_the_next_one() {
    let server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    let key = |name: &str| format!("umbel:{{s0}}:{name}");
    // The index of a tenant cannot be written, after all records were.
    let () = redis::cmd("SET").arg(key("jobs:tenant0")).arg("x").query(&mut server.connection()).unwrap();
    assert!(matches!(broker.submit(&[single(1)]).await, Err(Error::Failed(_))));
    let () = redis::cmd("DEL").arg(key("jobs:tenant0")).query(&mut server.connection()).unwrap();
    let other = TenantId::new("other").unwrap();
    broker.submit(&[NewJob { tenant: other, ..single(2) }]).await.unwrap();
    let left: Vec<String> = redis::cmd("KEYS").arg(key("jobs:*")).query(&mut server.connection()).unwrap();
    assert_eq!(left, [key("jobs:other")]);
    let queues = broker.queues(&tenant()).await.unwrap();
    assert!(queues.iter().all(|queue| queue.running == 0 && queue.delayed == 0), "{queues:?}");
}
