//! Who makes a request: a client certificate, a bearer token, or nobody.

use std::sync::Arc;

use http::{HeaderMap, header};
use jiff::Timestamp;
use weft_api::status::Status;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    accounts::{Accounts, ISSUER, Reading},
    authz,
    identity::Identity,
    tokens::{TokenStatus, Tokens},
};

/// What a connection says about whoever uses it.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// A TLS connection; the identity is that of its client certificate, which the handshake has verified.
    Network(Option<Arc<Identity>>),
    /// A client within the process.
    InProcess(Arc<Identity>),
}

/// The user and groups that a certificate names.
pub(crate) fn identity_of(certificate: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    (!user.is_empty()).then(|| Identity::known(user, groups))
}

/// Who makes the request, after impersonation.
pub(crate) fn authenticate(
    caller: &Caller,
    headers: &HeaderMap,
    tokens: &Tokens,
    accounts: &Accounts,
) -> Result<Identity, Status> {
    let identity = match caller {
        Caller::InProcess(identity) => identity.as_ref().clone(),
        Caller::Network(Some(identity)) => identity.as_ref().clone(),
        Caller::Network(None) => match headers.get(header::AUTHORIZATION) {
            Some(value) => bearer(value.to_str().unwrap_or_default(), tokens, accounts)?,
            None => Identity::anonymous(),
        },
    };
    impersonate(identity, headers)
}

fn bearer(authorization: &str, tokens: &Tokens, accounts: &Accounts) -> Result<Identity, Status> {
    let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorized("only bearer tokens and client certificates are accepted"));
    }
    let now = Timestamp::now();
    match accounts.read(token.trim(), now) {
        Reading::Valid(claims) if claims.aud.iter().any(|audience| audience == ISSUER) => {
            return Ok(claims.identity());
        }
        Reading::Valid(_) => return Err(unauthorized("the bearer token is not meant for this server")),
        Reading::Expired(at) => return Err(unauthorized(&format!("the bearer token expired at {at:.0}"))),
        Reading::Foreign => {}
    }
    match tokens.look_up(token.trim(), now) {
        TokenStatus::Valid(identity) => Ok(identity),
        TokenStatus::Expired(at) => Err(unauthorized(&format!("the bearer token expired at {at:.0}"))),
        TokenStatus::Unknown => Err(unauthorized("the bearer token is not known")),
    }
}

fn unauthorized(why: &str) -> Status {
    Status { message: format!("Unauthorized: {why}"), ..Status::unauthorized() }
}

/// Acts as another user, for those who may do everything anyway.
fn impersonate(identity: Identity, headers: &HeaderMap) -> Result<Identity, Status> {
    let text = |value: &http::HeaderValue| value.to_str().map(str::to_owned).ok();
    let Some(user) = headers.get("impersonate-user") else {
        let others = ["impersonate-group", "impersonate-uid"];
        return match others.iter().find(|name| headers.contains_key(**name)) {
            Some(name) => Err(Status::bad_request(format!("{name} is set without impersonate-user"))),
            None => Ok(identity),
        };
    };
    let user = text(user).filter(|user| !user.is_empty());
    let user = user.ok_or_else(|| Status::bad_request("impersonate-user is not a user name"))?;
    if !authz::is_administrator(&identity) {
        return Err(Status::forbidden_path(format!(
            "users \"{user}\" is forbidden: User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the \
             cluster scope",
            identity.user
        )));
    }
    let groups = headers.get_all("impersonate-group").iter().filter_map(text);
    Ok(Identity::known(user, groups))
}
