//! Hosts in every spelling that lead to a forbidden address: nobody is connected to.

use umbel_capabilities::http::{HttpError, Refused};

use crate::world::{Guarded, World, error};

/// What a URL must fail with.
#[derive(Debug, Clone, Copy)]
enum With {
    Address,
    Metadata,
    Url,
}

async fn refused(host: &str, with: With) {
    let world = World::new();
    world.public_name("good.test");
    let guarded = Guarded::start().await;
    for scheme in ["http", "https"] {
        let error = error(world.get(&format!("{scheme}://{host}:{}/", guarded.port())).await);
        let is_as_expected = match with {
            With::Address => matches!(error, HttpError::AddressRefused { refused: Refused::NotPublic(_), .. }),
            With::Metadata => matches!(error, HttpError::AddressRefused { refused: Refused::Metadata, .. }),
            With::Url => matches!(error, HttpError::InvalidUrl(_)),
        };
        assert!(is_as_expected, "{host}: {error:?}");
    }
    assert_eq!(guarded.server.connections(), 0);
    guarded.assert_untouched().await;
}

macro_rules! refused {
    ($($name:ident: $host:literal is $with:ident;)*) => {$(
        #[tokio::test]
        async fn $name() {
            refused($host, With::$with).await;
        }
    )*};
}

refused! {
    loopback: "127.0.0.1" is Address;
    another_loopback: "127.0.2.1" is Address;
    loopback_with_a_dot_at_the_end: "127.0.0.1." is Address;
    loopback_of_ipv6: "[::1]" is Address;
    loopback_of_ipv6_in_full: "[0:0:0:0:0:0:0:1]" is Address;
    loopback_of_ipv6_with_zeros: "[0000:0000:0000:0000:0000:0000:0000:0001]" is Address;
    mapped: "[::ffff:127.0.0.1]" is Address;
    mapped_in_hexadecimal: "[::ffff:7f00:1]" is Address;
    mapped_in_upper_case: "[::FFFF:7F00:0001]" is Address;
    compatible: "[::127.0.0.1]" is Address;
    translated: "[::ffff:0:127.0.0.1]" is Address;
    nat64: "[64:ff9b::127.0.0.1]" is Address;
    nat64_of_a_network: "[64:ff9b:1::7f00:1]" is Address;
    six_to_four: "[2002:7f00:1::]" is Address;
    six_to_four_of_a_private_address: "[2002:c0a8:101::1]" is Address;
    teredo: "[2001:0:7f00:1::80ff:fffe]" is Address;
    isatap: "[2606:4700::5efe:127.0.0.1]" is Address;
    unspecified: "0.0.0.0" is Address;
    unspecified_ipv6: "[::]" is Address;
    unique_local: "[fd00::1]" is Address;
    link_local_ipv6: "[fe80::1]" is Address;
    site_local_ipv6: "[fec0::1]" is Address;
    multicast_ipv6: "[ff02::1]" is Address;
    documentation_ipv6: "[2001:db8::1]" is Address;
    private_ten: "10.0.0.1" is Address;
    private_172: "172.16.0.1" is Address;
    private_192: "192.168.1.1" is Address;
    shared_by_a_carrier: "100.64.0.1" is Address;
    link_local: "169.254.1.1" is Address;
    multicast: "224.0.0.1" is Address;
    broadcast: "255.255.255.255" is Address;
    reserved: "240.0.0.1" is Address;
    benchmarking: "198.18.0.1" is Address;
    documentation: "192.0.2.1" is Address;
    metadata: "169.254.169.254" is Metadata;
    metadata_of_ipv6: "[fd00:ec2::254]" is Metadata;
    metadata_that_is_mapped: "[::ffff:a9fe:a9fe]" is Metadata;
    metadata_at_a_public_address: "168.63.129.16" is Metadata;
    short_form: "127.1" is Url;
    decimal: "2130706433" is Url;
    hexadecimal: "0x7f000001" is Url;
    hexadecimal_parts: "0x7f.0.0.1" is Url;
    octal: "0177.0.0.1" is Url;
    zero: "0" is Url;
    too_many_parts: "127.0.0.1.0" is Url;
    too_large_parts: "127.0.0.257" is Url;
    a_zone: "[fe80::1%25lo]" is Url;
    a_zone_that_is_not_escaped: "[::1%lo]" is Url;
    an_ipv4_address_in_brackets: "[127.0.0.1]" is Url;
    a_user_that_looks_like_the_host: "good.test@127.0.0.1" is Url;
    a_user_and_a_password: "user:password@good.test" is Url;
    a_user_that_looks_like_an_address: "127.0.0.1@good.test" is Url;
    an_escaped_host: "%31%32%37.0.0.1" is Url;
    full_stops_of_another_script: "127。0。0。1" is Url;
    digits_of_another_script: "①②⑦.0.0.1" is Url;
    an_international_name_that_is_not_encoded: "bücher.test" is Url;
    a_backslash: "good.test\\@127.0.0.1" is Url;
    an_empty_label: "good..test" is Url;
}
