//! The cluster's certificate authority and what it issues.
//!
//! The authority is made once and kept in the data directory; everything else is issued when it is needed.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;

/// Why a certificate could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the authority could not be read or written.
    #[error("cannot access {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key is malformed, or could not be made.
    #[error("cannot make or read a certificate")]
    Certificate(#[source] rcgen::Error),
    /// A name cannot be part of a certificate.
    #[error("{name:?} cannot be part of a certificate")]
    Name {
        /// The name.
        name: String,
    },
    /// A PEM text does not hold what it should.
    #[error("malformed PEM text")]
    Pem(#[source] rustls::pki_types::pem::Error),
}

/// The certificate authority of one cluster.
#[derive(Debug)]
pub struct ClusterPki {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ClusterPki {
    /// Reads the authority below `directory`, or makes one.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (directory.join(CA_CERT), directory.join(CA_KEY));
        if !cert_path.exists() || !key_path.exists() {
            fs::create_dir_all(directory)
                .map_err(|source| PkiError::File { path: directory.to_owned(), source })?;
            let (cert, key) = new_authority()?;
            // The key first: a certificate without its key would be taken for a whole authority.
            write(&key_path, &key, 0o600)?;
            write(&cert_path, &cert, 0o644)?;
        }
        let ca_pem = read(&cert_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(PkiError::Certificate)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(PkiError::Certificate)?;
        Ok(Self { ca_pem, issuer })
    }

    /// The authority's certificate, for whoever has to trust it.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A certificate and key (both PEM) for a server that is reached under `names`: host names or addresses.
    pub fn issue_server(&self, names: &[&str]) -> Result<(String, String), PkiError> {
        let mut params = leaf(ExtendedKeyUsagePurpose::ServerAuth);
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    (*name).try_into().map_err(|_| PkiError::Name { name: (*name).to_owned() })?,
                ),
            });
        }
        let common_name = names.first().copied().unwrap_or("weft");
        params.distinguished_name.push(DnType::CommonName, common_name);
        self.issue(&params)
    }

    /// A certificate and key (both PEM) that make its holder `user`, member of `groups`.
    pub fn issue_client(&self, user: &str, groups: &[&str]) -> Result<(String, String), PkiError> {
        let mut params = leaf(ExtendedKeyUsagePurpose::ClientAuth);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        self.issue(&params)
    }

    fn issue(&self, params: &CertificateParams) -> Result<(String, String), PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Certificate)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Certificate)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// The certificates of a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(PkiError::Pem)
}

/// The private key of a PEM text.
pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(PkiError::Pem)
}

fn new_authority() -> Result<(String, String), PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "weft-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_YEARS);
    let key = KeyPair::generate().map_err(PkiError::Certificate)?;
    let certificate = params.self_signed(&key).map_err(PkiError::Certificate)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn leaf(usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, LEAF_YEARS);
    params
}

/// Valid from yesterday, so that machines whose clocks differ by some hours agree on it.
fn valid_for(params: &mut CertificateParams, years: i16) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let yesterday = today.yesterday().unwrap_or(today);
    let end = today.saturating_add(jiff::Span::new().years(years));
    let [not_before, not_after] = [yesterday, end].map(|date| {
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    });
    params.not_before = not_before;
    params.not_after = not_after;
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

/// Writes a file that only its owner may change, whole or not at all.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let partial = path.with_extension("partial");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&partial)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| PkiError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let first = ClusterPki::open(&directory.path().join("pki")).unwrap();
        let second = ClusterPki::open(&directory.path().join("pki")).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        let mode = fs::metadata(directory.path().join("pki").join(CA_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn certificates_carry_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let pki = ClusterPki::open(directory.path()).unwrap();
        let (cert, key) = pki.issue_client("system:node:a", &["system:nodes"]).unwrap();
        private_key(&key).unwrap();
        let der = certificates(&cert).unwrap().remove(0);
        let identity = crate::auth::authn::identity_of(&der).unwrap();
        assert_eq!(identity.user, "system:node:a");
        assert!(identity.groups.iter().any(|group| group == "system:nodes"));
        assert!(matches!(pki.issue_server(&["no\u{e9}"]), Err(PkiError::Name { .. })));
        pki.issue_server(&["localhost", "127.0.0.1"]).unwrap();
    }
}
