//! Routes that answer by themselves.

use weft_xds::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
};

use super::rewrite::{regex_rewrite, rewrite_text};
use crate::config::{ConfigError, Path, unsupported, value};
use crate::filter::Overrides;
use crate::route::{
    Action, Redirect, RedirectPath, Route,
    matcher::{PathMatch, RouteMatch},
    mutate::Mutations,
    rate_limit::RateLimits,
};

pub(super) fn redirect(path: &Path, message: &RedirectAction) -> Result<Redirect, ConfigError> {
    let status = match RedirectResponseCode::try_from(message.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(path.field("response_code").error("is not a known value")),
    };
    let scheme = match &message.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
    };
    let to = match &message.path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => RedirectPath::Replace(path.clone()),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            RedirectPath::Prefix(rewrite_text(&path.field("prefix_rewrite"), prefix)?)
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (pattern, substitution) = regex_rewrite(&path.field("regex_rewrite"), rewrite)?;
            RedirectPath::Regex { pattern, substitution }
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => return Err(path.field("path_rewrite").unsupported()),
    };
    Ok(Redirect {
        status,
        scheme,
        host: Some(message.host_redirect.clone()).filter(|host| !host.is_empty()),
        port: match message.port_redirect {
            0 => None,
            port => Some(
                u16::try_from(port)
                    .map_err(|_| path.field("port_redirect").error("must be at most 65535"))?,
            ),
        },
        path: to,
        strip_query: message.strip_query,
        keep_port: false,
    })
}

pub(super) fn direct(
    path: &Path,
    message: &DirectResponseAction,
    longest: usize,
) -> Result<Action, ConfigError> {
    unsupported!(path, message; body_format);
    let status = value::status(&path.field("status"), message.status)?;
    let body = value::inline_data(&path.field("body"), message.body.as_ref())?;
    if body.len() > longest {
        return Err(path.field("body").error(format!("has {} bytes and may have {longest}", body.len())));
    }
    Ok(Action::Direct { status, body })
}

/// The route of requests that came without TLS to a host that wants it.
pub(super) fn to_tls() -> Route {
    Route {
        name: "".into(),
        matches: RouteMatch {
            path: PathMatch::Prefix { text: Vec::new(), ignore_case: false },
            headers: Vec::new(),
            cookies: Vec::new(),
            query: Vec::new(),
            grpc: false,
            certificate: None,
            fraction: None,
        },
        action: Action::Redirect(Redirect {
            status: 301,
            scheme: Some("https".to_owned()),
            host: None,
            port: None,
            path: RedirectPath::Keep,
            strip_query: false,
            keep_port: true,
        }),
        request: Mutations::default(),
        response: Mutations::default(),
        overrides: Overrides::default(),
        rate_limits: RateLimits::default(),
    }
}
