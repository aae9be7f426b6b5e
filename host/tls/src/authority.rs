//! An authority of one's own, and the certificates that it issues: for `umbel dev --tls`, and for tests.
//!
//! The authority's key lives in memory only. What was issued can be used, and nothing more can be issued once it is dropped:
//! a browser that trusts the authority trusts nobody who reads the data folder later.

use std::ops::Range;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::Error;

/// An authority that can issue certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Issued {
    // The key is nobody's business.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Authority {
    /// An authority with this name, good for so many days.
    pub fn new(name: &str, days: i64) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(&[], name, -1..days)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate of a server with these names and addresses, good from one day to another, counted from today.
    pub fn server(&self, names: &[&str], days: Range<i64>) -> Result<Issued, Error> {
        let name = names.first().copied().unwrap_or_default();
        self.issue(params(names, name, days)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate of a client.
    pub fn client(&self, name: &str, days: Range<i64>) -> Result<Issued, Error> {
        self.issue(params(&[], name, days)?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Issued, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A server's certificate that no authority issued.
pub fn self_signed(names: &[&str], days: Range<i64>) -> Result<Issued, Error> {
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params(names, names.first().copied().unwrap_or_default(), days)?.self_signed(&key);
    Ok(Issued { certificate: certificate.map_err(failed)?.pem(), key: key.serialize_pem() })
}

fn params(names: &[&str], common_name: &str, days: Range<i64>) -> Result<CertificateParams, Error> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let midnight = |days: i64| {
        let at = Timestamp::now().checked_add(SignedDuration::from_hours(24 * days));
        let at = at.map_err(|error| Error::NotIssued(error.to_string()))?;
        let date = at.to_zoned(TimeZone::UTC).date();
        Ok::<_, Error>(date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs()))
    };
    (params.not_before, params.not_after) = (midnight(days.start)?, midnight(days.end)?);
    Ok(params)
}

fn failed(error: rcgen::Error) -> Error {
    Error::NotIssued(error.to_string())
}
