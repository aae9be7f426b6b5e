//! Names and what they resolve to: every address counts, once, and nobody looks twice.

use std::sync::Arc;

use umbel_capabilities::http::{HttpError, OwnAddresses};

use crate::{
    dns::Reply,
    server::{OK, Server},
    world::{Guarded, PUBLIC, World, config, error, ip},
};

/// A name that resolves to these must be refused, and nothing be connected to.
async fn refused(reply: Reply) -> HttpError {
    let world = World::new();
    world.dns.name("name.test", move |_| reply.clone());
    let guarded = Guarded::start().await;
    let failed = error(world.get(&format!("http://name.test:{}/", guarded.port())).await);
    assert_eq!(guarded.server.connections(), 0, "{failed:?}");
    guarded.assert_untouched().await;
    failed
}

fn addresses(texts: &[&str]) -> Reply {
    Reply::Addresses(texts.iter().map(|text| ip(text)).collect(), 60)
}

fn is_address(error: &HttpError) -> bool {
    matches!(error, HttpError::AddressRefused { .. })
}

#[tokio::test]
async fn a_name_with_a_public_address_is_reached() {
    let world = World::new();
    world.public_name("name.test");
    let guarded = Guarded::start().await;
    let answer = world.get(&format!("http://name.test:{}/", guarded.port())).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    guarded.assert_untouched().await;
}

#[tokio::test]
async fn a_name_with_a_private_address_is_refused() {
    assert!(is_address(&refused(addresses(&["127.0.0.1"])).await));
}

#[tokio::test]
async fn one_private_address_among_public_ones_refuses_all() {
    assert!(is_address(&refused(addresses(&[PUBLIC, "127.0.2.1"])).await));
}

#[tokio::test]
async fn one_private_address_of_the_other_kind_refuses_all() {
    assert!(is_address(&refused(addresses(&[PUBLIC, "::1"])).await));
}

#[tokio::test]
async fn a_private_address_that_is_mapped_is_refused() {
    assert!(is_address(&refused(addresses(&["::ffff:127.0.0.1"])).await));
}

#[tokio::test]
async fn a_private_address_behind_a_translator_is_refused() {
    assert!(is_address(&refused(addresses(&["64:ff9b::7f00:1"])).await));
}

#[tokio::test]
async fn a_metadata_address_is_refused() {
    assert!(is_address(&refused(addresses(&["169.254.169.254"])).await));
}

#[tokio::test]
async fn an_unspecified_address_is_refused() {
    assert!(is_address(&refused(addresses(&["0.0.0.0"])).await));
}

#[tokio::test]
async fn a_canonical_name_with_a_private_address_is_refused() {
    let reply = Reply::Canonical("inside.test".into(), vec![ip("127.0.0.1")]);
    assert!(is_address(&refused(reply).await));
}

#[tokio::test]
async fn too_many_addresses_are_refused() {
    let many: Vec<_> = (1..=70).map(|n| ip(&format!("127.0.1.{n}"))).collect();
    let failed = refused(Reply::Addresses(many, 60)).await;
    assert!(matches!(&failed, HttpError::Resolve(why) if why.contains("64 addresses")), "{failed:?}");
}

#[tokio::test]
async fn an_unknown_name_is_told_as_such() {
    assert_eq!(refused(Reply::Code(3)).await, HttpError::NoSuchName);
}

#[tokio::test]
async fn a_name_without_addresses_is_told_as_such() {
    assert_eq!(refused(addresses(&[])).await, HttpError::NoSuchName);
}

#[tokio::test]
async fn a_dns_server_that_fails_is_told_as_such() {
    let failed = refused(Reply::Code(2)).await;
    assert!(matches!(failed, HttpError::Resolve(_) | HttpError::ResolveTimeout(_)), "{failed:?}");
}

#[tokio::test]
async fn a_dns_server_that_is_silent_costs_a_bounded_time() {
    let failed = refused(Reply::Silence).await;
    assert!(matches!(failed, HttpError::Resolve(_) | HttpError::ResolveTimeout(_)), "{failed:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_dns_is_not_used() {
    let failed = refused(Reply::Garbage).await;
    assert!(matches!(failed, HttpError::Resolve(_) | HttpError::ResolveTimeout(_)), "{failed:?}");
}

#[tokio::test]
async fn an_answer_for_another_name_is_not_used() {
    let failed = refused(Reply::ForAnother("other.test".into(), ip(PUBLIC))).await;
    assert!(!is_address(&failed), "{failed:?}");
}

#[tokio::test]
async fn localhost_is_loopback_in_each_spelling() {
    let world = World::new();
    let guarded = Guarded::start().await;
    for host in ["localhost", "localhost.", "LOCALHOST", "any.localhost"] {
        let failed = error(world.get(&format!("http://{host}:{}/", guarded.port())).await);
        assert!(is_address(&failed) || failed == HttpError::NoSuchName, "{host}: {failed:?}");
    }
    guarded.assert_untouched().await;
}

#[tokio::test]
async fn a_name_that_changes_after_the_check_is_connected_to_what_was_checked() {
    let world = World::new();
    // The first question gets a public address, each later one a private one, and nothing may be kept.
    world.dns.name("rebind.test", |asked| Reply::Addresses(vec![ip(if asked == 0 { PUBLIC } else { "127.0.0.1" })], 0));
    let guarded = Guarded::start().await;
    let url = format!("http://rebind.test:{}/", guarded.port());
    assert_eq!(world.get(&url).await.unwrap().status, 200);
    assert_eq!(world.dns.asked("rebind.test"), 1);
    assert_eq!(guarded.server.connections(), 1);
    // Another module has no connection that waits, so it asks again.
    let other = world.attempt_of("t", b"other module");
    assert!(is_address(&error(crate::world::get(&other, &url).await)));
    guarded.assert_untouched().await;
}

#[tokio::test]
async fn a_name_that_alternates_never_leads_to_the_private_address() {
    let mut config = config();
    config.pool.total = 0;
    let world = World::with(config, OwnAddresses::default());
    world
        .dns
        .name("flip.test", |asked| Reply::Addresses(vec![ip(if asked % 2 == 0 { PUBLIC } else { "127.0.0.2" })], 0));
    let guarded = Guarded::start().await;
    let url = format!("http://flip.test:{}/", guarded.port());
    let mut reached = 0;
    for _ in 0..20 {
        match world.get(&url).await {
            Ok(_) => reached += 1,
            Err(error) => assert!(is_address(&error), "{error:?}"),
        }
    }
    assert_eq!(guarded.server.connections(), reached);
    guarded.assert_untouched().await;
}

#[tokio::test]
async fn spellings_of_a_name_are_one_name() {
    let world = World::new();
    world.public_name("name.test");
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    for host in ["name.test", "NAME.Test", "name.test.", "Name.TEST."] {
        assert_eq!(world.get(&format!("http://{host}:{}/", server.port())).await.unwrap().status, 200, "{host}");
    }
    assert_eq!((world.dns.asked("name.test"), server.connections()), (1, 1));
}

#[tokio::test]
async fn an_international_name_is_reached_in_its_encoded_form() {
    let world = World::new();
    world.public_name("xn--bcher-kva.test");
    let (server, heads) = Server::recording(&format!("{PUBLIC}:0")).await;
    world.get(&format!("http://xn--bcher-kva.test:{}/", server.port())).await.unwrap();
    assert!(heads.lock().unwrap()[0].contains(&format!("host: xn--bcher-kva.test:{}\r\n", server.port())));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let world = World::new();
    world.dns.name("two.test", |_| Reply::Addresses(vec![ip("127.0.1.9"), ip("127.0.1.8"), ip(PUBLIC)], 60));
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    assert_eq!(world.get(&format!("http://two.test:{}/", server.port())).await.unwrap().status, 200);
}

#[tokio::test]
async fn nobody_listens_is_told_as_such() {
    let world = World::new();
    let port = {
        let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
        server.port()
    };
    tokio::task::yield_now().await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{port}/")).await);
    assert!(
        matches!(failed, HttpError::ConnectionRefused | HttpError::Closed | HttpError::FirstByteTimeout(_)),
        "{failed:?}"
    );
}

#[tokio::test]
async fn own_addresses_are_refused_though_an_operator_opened_their_network() {
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let world = World::with(config(), OwnAddresses::new([server.address]));
    world.public_name("own.test");
    let port = server.port();
    for host in [PUBLIC, "own.test", "[::ffff:127.0.1.1]"] {
        let failed = error(world.get(&format!("http://{host}:{port}/")).await);
        assert!(matches!(failed, HttpError::OwnAddress { .. }), "{host}: {failed:?}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_own_address_of_all_interfaces_is_each_of_this_machine() {
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let everywhere = format!("0.0.0.0:{}", server.port()).parse().unwrap();
    let world = World::with(config(), OwnAddresses::new([everywhere]));
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::OwnAddress { .. }), "{failed:?}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_mapped_public_address_is_connected_to_as_what_it_is() {
    let world = World::new();
    world.dns.name("mapped.test", |_| Reply::Addresses(vec![ip("::ffff:127.0.1.1")], 60));
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    assert_eq!(world.get(&format!("http://mapped.test:{}/", server.port())).await.unwrap().status, 200);
}

#[tokio::test]
async fn many_look_ups_at_once_are_answered() {
    let world = Arc::new(World::new());
    world.public_name("name.test");
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let url = format!("http://name.test:{}/", server.port());
    let requests = (0..40).map(|_| {
        let (world, url) = (world.clone(), url.clone());
        tokio::spawn(async move { world.get(&url).await })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap().unwrap().status, 200);
    }
}
