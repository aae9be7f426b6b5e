//! Why no TLS connection came about, in words that say what is wrong and what to do.
//!
//! What a server sent (the names in its certificate) is shortened and escaped here.

use std::{error::Error as StdError, fmt, io, sync::Arc};

use jiff::Timestamp;
use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as TlsError, pki_types::UnixTime};

/// Names of a certificate that are told, and bytes of each.
const MAX_NAMES: usize = 5;
const MAX_NAME_CHARS: usize = 80;

/// Why a TLS connection was refused, by this side or by the other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The certificate was good until then, a date if it is known.
    Expired { until: Option<String> },
    /// The certificate is good from then on.
    NotYetValid { from: Option<String> },
    /// The certificate is for other names.
    WrongName { wanted: String, names: Vec<String> },
    /// Nobody who is trusted has issued the certificate.
    UnknownIssuer,
    /// The certificate is that of an authority or of a client.
    NotAServers,
    /// The certificate is wrong in another way.
    Certificate(String),
    /// The server wants a certificate of the client.
    WantsCertificate,
    /// The server does not accept the certificate of the client.
    RefusesCertificate(String),
    /// What answers does not speak TLS.
    NotTls,
    /// Both sides have no version or algorithm in common.
    NothingInCommon,
    /// Something else broke the connection.
    Other(String),
}

impl Refusal {
    /// What is the matter, if TLS is: looks through an error and everything that caused it.
    pub fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        // Causes of causes: no library nests them deeper.
        for _ in 0..16 {
            let error = next?;
            if let Some(tls) = error.downcast_ref::<TlsError>() {
                return Some(Self::of_tls(tls));
            }
            // An IO error hides what it was made of from `source`, and so does a shared one.
            if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                next = Some(inner);
            } else if let Some(shared) = error.downcast_ref::<Arc<dyn StdError + Send + Sync>>() {
                next = Some(&**shared);
            } else {
                next = error.source();
            }
        }
        None
    }

    fn of_tls(error: &TlsError) -> Self {
        match error {
            TlsError::InvalidCertificate(certificate) => Self::of_certificate(certificate),
            TlsError::InvalidMessage(_) => Self::NotTls,
            TlsError::AlertReceived(Alert::CertificateRequired | Alert::NoCertificate) => Self::WantsCertificate,
            TlsError::AlertReceived(
                alert @ (Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError),
            ) => Self::RefusesCertificate(format!("{alert:?}")),
            TlsError::AlertReceived(Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity)
            | TlsError::PeerIncompatible(_) => Self::NothingInCommon,
            other => Self::Other(shown(&other.to_string())),
        }
    }

    fn of_certificate(error: &Certificate) -> Self {
        match error {
            Certificate::Expired => Self::Expired { until: None },
            Certificate::ExpiredContext { not_after, .. } => Self::Expired { until: date(*not_after) },
            Certificate::NotValidYet => Self::NotYetValid { from: None },
            Certificate::NotValidYetContext { not_before, .. } => Self::NotYetValid { from: date(*not_before) },
            Certificate::NotValidForName => Self::WrongName { wanted: String::new(), names: Vec::new() },
            Certificate::NotValidForNameContext { expected, presented } => Self::WrongName {
                wanted: shown(&expected.to_str()),
                names: presented.iter().map(|name| shown(bare(name))).collect(),
            },
            // A bad signature is that of an authority which only has the name of a trusted one.
            Certificate::UnknownIssuer | Certificate::BadSignature => Self::UnknownIssuer,
            Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => Self::NotAServers,
            // An authority's certificate where a server's should be: the library has no name of its own for it.
            Certificate::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => Self::NotAServers,
            other => Self::Certificate(shown(&other.to_string())),
        }
    }

    /// What to do. `authorities` is where this client takes authorities from, such as `--ca-file`.
    pub fn help(&self, authorities: &str) -> String {
        match self {
            Self::Expired { .. } => {
                "renew it on the server; if it is new there, look at the clock of this machine".into()
            }
            Self::NotYetValid { .. } => "look at the clocks of both machines".into(),
            Self::WrongName { .. } => "use a name that the certificate is for, or issue one for this name".into(),
            Self::UnknownIssuer => format!("if you trust it, give the certificate of its authority with {authorities}"),
            Self::NotAServers => {
                "give the server one that its authority issued for a server (CA:FALSE, serverAuth)".into()
            }
            Self::Certificate(_) => "issue another one for the server".into(),
            Self::WantsCertificate => "give this client a certificate and its key".into(),
            Self::RefusesCertificate(_) => "give one that the server's authority issued for a client".into(),
            Self::NotTls => "write its address without TLS, or look at its port".into(),
            Self::NothingInCommon => "allow TLS 1.2 or 1.3 on the server, with AES-GCM or ChaCha20".into(),
            Self::Other(_) => "look at the server's log".into(),
        }
    }

    /// Whether to try again is useless until somebody changes something.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { until: Some(date) } => write!(f, "its certificate expired on {date}"),
            Self::Expired { until: None } => f.write_str("its certificate has expired"),
            Self::NotYetValid { from: Some(date) } => write!(f, "its certificate is not valid before {date}"),
            Self::NotYetValid { from: None } => f.write_str("its certificate is not valid yet"),
            Self::WrongName { wanted, names } => {
                f.write_str("its certificate is for ")?;
                for (n, name) in names.iter().take(MAX_NAMES).enumerate() {
                    write!(f, "{}{name}", if n == 0 { "" } else { ", " })?;
                }
                match names.len() {
                    0 => f.write_str("no name")?,
                    n if n > MAX_NAMES => write!(f, " and {} more", n - MAX_NAMES)?,
                    _ => {}
                }
                write!(f, ", not for {}", if wanted.is_empty() { "this one" } else { wanted })
            }
            Self::UnknownIssuer => {
                f.write_str("its certificate was issued by nobody who is trusted here (it may be self-signed)")
            }
            Self::NotAServers => f.write_str("its certificate is not one of a server"),
            Self::Certificate(why) => write!(f, "its certificate is refused: {why}"),
            Self::WantsCertificate => f.write_str("it wants a certificate of the client"),
            Self::RefusesCertificate(alert) => write!(f, "it refuses the certificate of the client ({alert})"),
            Self::NotTls => f.write_str("it does not speak TLS"),
            Self::NothingInCommon => f.write_str("it has no version or cipher of TLS in common with this client"),
            Self::Other(why) => write!(f, "TLS failed: {why}"),
        }
    }
}

fn date(at: UnixTime) -> Option<String> {
    let at = Timestamp::from_second(i64::try_from(at.as_secs()).ok()?).ok()?;
    Some(at.strftime("%Y-%m-%d").to_string())
}

/// The name in `DnsName("…")` and `IpAddress(…)`, which is how the library tells them.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

/// A text from elsewhere: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).flat_map(|c| c.escape_debug()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: TlsError) -> String {
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
        Refusal::of(&wrapped).unwrap().to_string()
    }

    #[test]
    fn a_refusal_is_found_however_deep_it_is() {
        let error =
            io::Error::new(io::ErrorKind::InvalidData, TlsError::InvalidCertificate(Certificate::UnknownIssuer));
        let shared: Arc<dyn StdError + Send + Sync> = Arc::new(error);
        let wrapped = io::Error::other(shared);
        assert_eq!(Refusal::of(&wrapped), Some(Refusal::UnknownIssuer));
        assert_eq!(Refusal::of(&io::Error::other("the cable")), None);
    }

    #[test]
    fn names_of_a_certificate_are_told_few_short_and_escaped() {
        let expected = rustls::pki_types::ServerName::try_from("here.example").unwrap().to_owned();
        let presented = (0..9).map(|n| format!("DnsName(\"\u{1b}[2J{n}{}\")", "x".repeat(500))).collect();
        let text = told(TlsError::InvalidCertificate(Certificate::NotValidForNameContext { expected, presented }));
        assert!(text.contains("not for here.example") && text.contains("and 4 more"), "{text}");
        assert!(!text.contains('\u{1b}') && text.len() < 700, "{text}");
    }

    #[test]
    fn dates_are_told() {
        let not_after = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_772_323_200));
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        let text = told(TlsError::InvalidCertificate(Certificate::ExpiredContext { time, not_after }));
        assert_eq!(text, "its certificate expired on 2026-03-01");
    }
}
