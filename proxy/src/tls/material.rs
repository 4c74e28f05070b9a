//! What people are shown of the certificates in force: where they are from, whose they are, and for how long.

use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::names::Names;

/// The certificates of one context.
#[derive(Debug, Clone, Default)]
pub(crate) struct Material {
    /// Whom we believe.
    pub(crate) authorities: Vec<Shown>,
    /// Who we are.
    pub(crate) ours: Vec<Shown>,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The file that it was read from.
    pub(crate) path: String,
    /// Hexadecimal.
    pub(crate) serial: String,
    pub(crate) names: Names,
    /// Seconds since 1970.
    pub(crate) valid_from: i64,
    pub(crate) expires: i64,
}

// === impl Shown ===

impl Shown {
    /// `None` for what is no certificate; nothing is decided by this, so that is no error.
    pub(crate) fn of(path: &str, der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            path: path.to_owned(),
            serial: format!("{:x}", certificate.serial),
            names: Names::of_parsed(&certificate).unwrap_or_default(),
            valid_from: validity.not_before.timestamp(),
            expires: validity.not_after.timestamp(),
        })
    }

    /// Whole days that are left at `now`, in seconds since 1970.
    pub(crate) fn days_left(&self, now: i64) -> u64 {
        u64::try_from((self.expires - now) / (24 * 60 * 60)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_tells_its_names_number_and_time() {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".into()]).expect("names");
        params.serial_number = Some(vec![0x01, 0xab].into());
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 31);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let shown = Shown::of("/a.pem", certificate.der()).expect("it is one");
        assert_eq!((shown.path.as_str(), shown.serial.as_str()), ("/a.pem", "1ab"));
        assert_eq!(shown.names.dns, ["a.test"]);
        assert_eq!((shown.valid_from, shown.expires), (1_577_836_800, 1_580_428_800));
        assert_eq!(shown.days_left(shown.valid_from), 30);
        assert_eq!(shown.days_left(shown.expires - 1), 0);
        assert_eq!(shown.days_left(shown.expires + 1_000_000), 0);
        assert_eq!(Shown::of("", b"no certificate"), None);
    }
}
