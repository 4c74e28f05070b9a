//! A token taken apart, and what can be wrong with one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

/// A token whose signature was not looked at yet.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
    pub(super) claims: Value,
    /// The claims as they stood in the token.
    pub(super) payload: String,
    /// What the signature is of: header and claims as they stood.
    pub(super) signed: String,
    pub(super) signature: Vec<u8>,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Missing,
    Malformed,
    UnknownIssuer,
    NotYetValid,
    Expired,
    NoExpiration,
    WrongAudience,
    /// The server that gives keys out has given none.
    NoKeys,
    NoKey,
    BadSignature,
    UnknownRequirement,
}

// === impl Failure ===

impl Failure {
    pub(super) fn status(self) -> u16 {
        match self {
            Self::WrongAudience | Self::UnknownRequirement => 403,
            _ => 401,
        }
    }

    /// Envoy's words.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::Malformed => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::NoExpiration => "Jwt has no expiration time",
            Self::WrongAudience => "Audiences in Jwt are not allowed",
            Self::NoKeys => "Jwks remote fetch is failed",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::BadSignature => "Jwt verification fails",
            Self::UnknownRequirement => "Wrong requirement_name",
        }
    }
}

// === impl Token ===

impl Token {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.').filter(|_| !signature.is_empty())?;
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (header, claims) = (json(header)?, json(payload)?);
        // A header that demands to be understood (RFC 7515 4.1.11) is not.
        if !claims.is_object() || header.get("crit").is_some() {
            return None;
        }
        let word = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            algorithm: word("alg")?,
            key_id: word("kid"),
            claims,
            payload: payload.to_owned(),
            signed: signed.to_owned(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// A time in seconds since 1970.
    pub(super) fn time(&self, claim: &str) -> Result<Option<u64>, Failure> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(value) => {
                value.as_f64().map(|seconds| Some(seconds.max(0.0) as u64)).ok_or(Failure::Malformed)
            }
        }
    }

    /// Whether it is meant for one of these.
    pub(super) fn is_for(&self, audiences: &[String]) -> bool {
        let wanted =
            |value: &Value| value.as_str().is_some_and(|name| audiences.iter().any(|own| own == name));
        match self.claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(wanted),
            Some(one) => wanted(one),
            None => false,
        }
    }
}
