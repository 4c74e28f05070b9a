//! Which redirects of upstreams are followed.

use weft_xds::{
    any,
    pb::envoy::{
        config::{core::v3::TypedExtensionConfig, route::v3::InternalRedirectPolicy},
        extensions::internal_redirect::{
            allow_listed_routes::v3::AllowListedRoutesConfig, previous_routes::v3::PreviousRoutesConfig,
            safe_cross_scheme::v3::SafeCrossSchemeConfig,
        },
    },
};

use crate::config::{ConfigError, Path, value};
use crate::route::internal_redirect::{Predicate, RedirectPolicy};

/// The statuses that may be followed; others are not looked at, as in Envoy.
const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// Envoy's bound on `redirect_response_codes`.
const MOST_STATUSES: usize = 5;

pub(super) fn compile(path: &Path, message: &InternalRedirectPolicy) -> Result<RedirectPolicy, ConfigError> {
    let asked = &message.redirect_response_codes;
    if asked.len() > MOST_STATUSES {
        return Err(path.field("redirect_response_codes").error("must be at most 5"));
    }
    let statuses = match asked.as_slice() {
        [] => vec![302],
        asked => STATUSES.into_iter().filter(|status| asked.contains(&u32::from(*status))).collect(),
    };
    let predicates = message.predicates.iter().enumerate();
    let copy = message.response_headers_to_copy.iter().enumerate();
    Ok(RedirectPolicy {
        statuses,
        most: value::number(message.max_internal_redirects.as_ref(), 1),
        predicates: predicates
            .map(|(index, message)| predicate(&path.item("predicates", index), message))
            .collect::<Result<_, _>>()?,
        cross_scheme: message.allow_cross_scheme_redirect,
        copy: copy
            .map(|(index, name)| value::removable(&path.item("response_headers_to_copy", index), name))
            .collect::<Result<_, _>>()?,
    })
}

fn predicate(path: &Path, message: &TypedExtensionConfig) -> Result<Predicate, ConfigError> {
    let path = path.field("typed_config");
    let config = message.typed_config.as_ref().ok_or_else(|| path.missing())?;
    match any::type_name(&config.type_url) {
        "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig" => {
            let list = value::unpacked(&path, any::unpack::<AllowListedRoutesConfig>(config))?;
            Ok(Predicate::AllowListed(list.allowed_route_names))
        }
        "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig" => {
            value::unpacked(&path, any::unpack::<PreviousRoutesConfig>(config))?;
            Ok(Predicate::PreviousRoutes)
        }
        "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig" => {
            value::unpacked(&path, any::unpack::<SafeCrossSchemeConfig>(config))?;
            Ok(Predicate::SafeCrossScheme)
        }
        _ => Err(path.unsupported()),
    }
}
