//! An authority and certificates for one run: ECDSA P-256, for `localhost`.

use std::{fs, path::Path};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Writes `authority.pem`, and for `server` and `client` each `.pem`, `.key` and `-both.pem` (HAProxy wants both in one).
pub fn write(directory: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = named("weft benchmark authority", Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = params.self_signed(&key).context("cannot sign")?;
    save(directory, "authority.pem", &authority.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = named(name, vec!["localhost".to_owned()])?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).context("cannot sign")?.pem();
        save(directory, &format!("{name}.pem"), &certificate)?;
        save(directory, &format!("{name}.key"), &key.serialize_pem())?;
        save(directory, &format!("{name}-both.pem"), &format!("{certificate}{}", key.serialize_pem()))?;
    }
    Ok(())
}

fn named(name: &str, hosts: Vec<String>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts).context("not a host name")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn save(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
