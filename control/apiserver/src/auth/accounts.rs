//! Tokens of service accounts: signed, of limited life, for a named audience, and bound to the pod or node that holds them.
//!
//! They have the form of kube-apiserver's (JSON Web Tokens with the private claim `kubernetes.io`). Only this server reads
//! them, so they are signed with a secret (HS256) instead of a key pair; others ask with a TokenReview.

use std::path::Path;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::pki::{self, PkiError};

/// The audience of tokens for this server itself; also who issues them.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// What the header of every token says.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// Signs tokens, and tells those that it signed.
#[derive(Debug)]
pub(crate) struct Accounts {
    key: hmac::Key,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: Vec<String>,
    /// Seconds since 1970, as the others.
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Private,
}

/// The claims of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Private {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
}

/// An object by name and identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

/// What a text is as a token of a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    Valid(Box<Claims>),
    Expired(Timestamp),
    /// Not signed here.
    Foreign,
}

// === impl Accounts ===

impl Accounts {
    /// The secret in `path`, which is made if there is none: tokens outlive a restart.
    pub(crate) fn open(path: &Path) -> Result<Self, PkiError> {
        if !path.exists() {
            let secret = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>());
            pki::write(path, &secret, 0o600)?;
        }
        let secret = std::fs::read(path);
        let secret = secret.map_err(|source| PkiError::File { path: path.to_owned(), source })?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.trim_ascii()) })
    }

    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let payload = serde_json::to_vec(claims).expect("texts and numbers only");
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(payload));
        let signature = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    pub(crate) fn read(&self, token: &str, now: Timestamp) -> Reading {
        let Some(claims) = self.verified(token) else { return Reading::Foreign };
        if claims.exp <= now.as_second() {
            return Reading::Expired(Timestamp::from_second(claims.exp).unwrap_or_default());
        }
        Reading::Valid(Box::new(claims))
    }

    fn verified(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        // The header is compared as it is: there is no other algorithm that it could ask for.
        if header != URL_SAFE_NO_PAD.encode(HEADER) {
            return None;
        }
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }
}

// === impl Claims ===

impl Claims {
    /// Whoever holds the token.
    pub(crate) fn identity(&self) -> Identity {
        let Private { namespace, serviceaccount, pod, node } = &self.kubernetes;
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        let mut identity = Identity::known(self.sub.clone(), groups);
        identity.uid.clone_from(&serviceaccount.uid);
        for (kind, reference) in [("pod", pod), ("node", node)] {
            for (part, value) in
                reference.iter().flat_map(|reference| [("name", &reference.name), ("uid", &reference.uid)])
            {
                if !value.is_empty() {
                    let key = format!("authentication.kubernetes.io/{kind}-{part}");
                    identity.extra.insert(key, vec![value.clone()]);
                }
            }
        }
        identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(exp: i64) -> Claims {
        Claims {
            iss: ISSUER.to_owned(),
            sub: "system:serviceaccount:default:web".to_owned(),
            aud: vec!["weft-xds".to_owned()],
            iat: 0,
            nbf: 0,
            exp,
            kubernetes: Private {
                namespace: "default".to_owned(),
                serviceaccount: Reference { name: "web".to_owned(), uid: "1".to_owned() },
                pod: Some(Reference { name: "web-1".to_owned(), uid: "2".to_owned() }),
                node: None,
            },
        }
    }

    #[test]
    fn only_what_was_signed_here_and_is_not_too_old_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&directory.path().join("key")).unwrap();
        let again = Accounts::open(&directory.path().join("key")).unwrap();
        let other = Accounts::open(&directory.path().join("other")).unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        let token = accounts.sign(&claims(1001));
        assert_eq!(again.read(&token, now), Reading::Valid(Box::new(claims(1001))), "after a restart too");
        assert!(matches!(accounts.read(&accounts.sign(&claims(1000)), now), Reading::Expired(_)));
        assert_eq!(other.read(&token, now), Reading::Foreign);
        // Somebody writes themselves a longer life, or asks for no signature at all.
        let parts: Vec<&str> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims(9999)).unwrap());
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        for text in [
            format!("{}.{forged}.{}", parts[0], parts[2]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{}", parts[0], parts[1]),
            String::new(),
            "...".to_owned(),
        ] {
            assert_eq!(accounts.read(&text, now), Reading::Foreign, "{text}");
        }
    }

    #[test]
    fn the_holder_is_known_by_account_and_pod() {
        let identity = claims(1).identity();
        assert_eq!(identity.user, "system:serviceaccount:default:web");
        assert!(identity.is_in("system:serviceaccounts:default") && identity.is_in("system:authenticated"));
        assert_eq!(identity.extra["authentication.kubernetes.io/pod-name"], ["web-1"]);
        assert_eq!(identity.extra["authentication.kubernetes.io/pod-uid"], ["2"]);
    }
}
