//! A DNS server of a few lines: each name has a function that answers.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

/// What one question is answered with.
#[derive(Clone)]
pub enum Reply {
    /// Addresses, with a TTL in seconds; those of the asked kind are answered.
    Addresses(Vec<IpAddr>, u32),
    /// A canonical name, and its addresses.
    Canonical(String, Vec<IpAddr>),
    /// An address for a name that was not asked for.
    ForAnother(String, IpAddr),
    Code(u8),
    Garbage,
    Silence,
}

/// Called with how often the name was asked before, for this kind of address.
type Answers = Arc<dyn Fn(usize) -> Reply + Send + Sync>;

pub struct Dns {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: HashMap<String, Answers>,
    asked: HashMap<(String, u16), usize>,
}

const A: u16 = 1;
const AAAA: u16 = 28;
const CNAME: u16 = 5;

impl Dns {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let served = state.clone();
        // Ends with the process: a test binary that waits for nothing.
        thread::spawn(move || {
            let mut packet = [0; 2_048];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                if let Some(reply) = answer(&packet[..length], &served) {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Self { address, state }
    }

    pub fn name(&self, name: &str, answers: impl Fn(usize) -> Reply + Send + Sync + 'static) {
        self.state.lock().unwrap().names.insert(name.to_owned(), Arc::new(answers));
    }

    /// How often the IPv4 addresses of a name were asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.state.lock().unwrap().asked.get(&(name.to_owned(), A)).copied().unwrap_or(0)
    }
}

fn answer(packet: &[u8], state: &Mutex<State>) -> Option<Vec<u8>> {
    let (name, end) = read_name(packet, 12)?;
    let kind = u16::from_be_bytes([*packet.get(end)?, *packet.get(end + 1)?]);
    let reply = {
        let mut state = state.lock().unwrap();
        let asked = state.asked.entry((name.clone(), kind)).or_default();
        let before = *asked;
        *asked += 1;
        state.names.get(&name).map_or(Reply::Code(3), |answers| answers(before))
    };
    let mut records: Vec<Vec<u8>> = Vec::new();
    let mut code = 0;
    let address_records = |of: &[u8], addresses: &[IpAddr], ttl: u32| -> Vec<Vec<u8>> {
        let of_kind =
            addresses.iter().filter(|address| address.is_ipv4() == (kind == A) && (kind == A || kind == AAAA));
        of_kind
            .map(|address| match address {
                IpAddr::V4(v4) => record(of, A, ttl, &v4.octets()),
                IpAddr::V6(v6) => record(of, AAAA, ttl, &v6.octets()),
            })
            .collect()
    };
    // The question's name, by its place in the packet.
    let asked_name = [0xc0, 12];
    match &reply {
        Reply::Silence => return None,
        Reply::Garbage => return Some([&packet[..2], b"\x81\x80\xff\xff\xff\xff\x00nonsense"].concat()),
        Reply::Code(given) => code = *given,
        Reply::Addresses(addresses, ttl) => records = address_records(&asked_name, addresses, *ttl),
        Reply::Canonical(canonical, addresses) => {
            records.push(record(&asked_name, CNAME, 60, &write_name(canonical)));
            records.extend(address_records(&write_name(canonical), addresses, 60));
        }
        Reply::ForAnother(other, address) => records = address_records(&write_name(other), &[*address], 60),
    }
    let mut out = packet[..2].to_vec();
    out.extend([0x81, 0x80 | code]);
    out.extend(1_u16.to_be_bytes());
    out.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    out.extend([0; 4]);
    out.extend(&packet[12..end + 4]);
    out.extend(records.concat());
    Some(out)
}

fn record(name: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut out = name.to_vec();
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out.extend(ttl.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn read_name(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}

fn write_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}
