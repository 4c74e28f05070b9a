//! Telling the service the body of a request.

use bytes::Bytes;

use super::OwnCheck;
use crate::{
    filter::{buffer, overrides::Own},
    http::{
        change::{Held, RequestBody},
        exchange::{Context, Reply},
    },
};

/// How the service is told the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyRule {
    /// Most bytes that are waited for.
    pub(super) limit: usize,
    /// A body that is longer is told as far as this, instead of being refused.
    pub(super) partial: bool,
    /// As bytes rather than as text, over gRPC.
    pub(super) as_bytes: bool,
}

/// What the service is told of a body.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) body: Bytes,
    pub(super) as_bytes: bool,
    /// Whether that is not all of it; `None` where there is no body, or nothing is told.
    pub(super) partial: Option<bool>,
}

/// Waits for as much of the body as the service is to be told; the answer to a body that is too long or does not come.
pub(super) async fn wait(
    configured: Option<&BodyRule>,
    body: &mut dyn RequestBody,
    own: &Own<'_>,
    cx: &Context,
) -> Result<Told, Box<Reply>> {
    let of_route = own.all::<OwnCheck>().rev().find_map(|own| match own {
        OwnCheck::Settings { body, .. } => body.as_ref(),
        OwnCheck::Disabled(_) => None,
    });
    let rule = of_route.map_or(configured, Option::as_ref);
    let Some(rule) = rule else { return Ok(Told::default()) };
    if body.whole().is_some_and(<[u8]>::is_empty) {
        return Ok(Told::default());
    }
    let held = buffer::hold(body, rule.limit, cx).await?;
    if held == Held::TooLong && !rule.partial {
        return Err(Box::new(buffer::too_long()));
    }
    let there = body.held();
    Ok(Told {
        body: Bytes::copy_from_slice(&there[..there.len().min(rule.limit)]),
        as_bytes: rule.as_bytes,
        partial: Some(held == Held::TooLong),
    })
}

// === impl Told ===

impl Told {
    /// The value of the field that says whether there is more.
    pub(super) fn is_partial(&self) -> Option<&'static str> {
        self.partial.map(|partial| if partial { "true" } else { "false" })
    }
}
