//! Public keys that sign tokens (RFC 7517, 7518, 8037).

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::token::{Failure, Token};

/// The keys of a provider.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The only algorithm that it may be used with, if it says so.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point of the curve, uncompressed.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

// === impl KeySet ===

impl KeySet {
    /// Reads a JWKS. Keys of other kinds or for other uses are left out; without any that is left it is an error.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(text).map_err(|error| format!("is no JSON: {error}"))?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("has no list \"keys\"")?;
        let keys: Vec<Key> = keys.iter().filter_map(Key::parse).collect();
        if keys.is_empty() { Err("has no key that can be used".to_owned()) } else { Ok(Self(keys)) }
    }

    /// Whether one of the keys has signed the token.
    pub(super) fn verify(&self, token: &Token) -> Result<(), Failure> {
        let mut tried = false;
        for key in self.0.iter().filter(|key| key.may_have_signed(token)) {
            // The algorithm must be one for the key: with the token's alone, a public key could be taken for a secret.
            if key.material.verify(token) {
                return Ok(());
            }
            tried = true;
        }
        Err(if tried { Failure::BadSignature } else { Failure::NoKey })
    }
}

// === impl Key ===

impl Key {
    fn parse(key: &Value) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa { modulus: bytes("n")?, exponent: bytes("e")? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x")?),
            _ => return None,
        };
        Some(Self { id: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), material })
    }

    fn may_have_signed(&self, token: &Token) -> bool {
        let same = |own: &Option<String>, other: &str| own.as_ref().is_none_or(|own| own == other);
        same(&self.algorithm, &token.algorithm) && token.key_id.as_ref().is_none_or(|id| same(&self.id, id))
    }
}

// === impl Material ===

impl Material {
    /// Whether the signature is good, and made in a way that is for this key.
    fn verify(&self, token: &Token) -> bool {
        let (message, signature) = (token.signed.as_bytes(), token.signature.as_slice());
        let rsa = |parameters: &'static RsaParameters, modulus: &[u8], exponent: &[u8]| {
            let key = RsaPublicKeyComponents { n: modulus, e: exponent };
            key.verify(parameters, message, signature).is_ok()
        };
        let ecdsa = |algorithm: &'static EcdsaVerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
        };
        match (self, token.algorithm.as_str()) {
            (Self::Rsa { modulus: n, exponent: e }, algorithm) => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                rsa(parameters, n, e)
            }
            (Self::P256(point), "ES256") => ecdsa(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Self::P384(point), "ES384") => ecdsa(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Self::Ed25519(key), "EdDSA") => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}
