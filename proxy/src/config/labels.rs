//! Compiling metadata, as far as subsets of endpoints are made and asked for by it: the filter `envoy.lb`.

use std::sync::Arc;

use weft_xds::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{Struct, Value, value::Kind},
};

use super::{ConfigError, Path};
use crate::balance::{Criteria, Labels};

const BALANCING: &str = "envoy.lb";
/// Values in values: as deep as anybody needs, and far from the end of the stack.
const MAX_DEPTH: usize = 16;

/// What a request asks for; `None` if it does not.
pub(super) fn criteria(
    path: &Path,
    message: Option<&Metadata>,
) -> Result<Option<Arc<Criteria>>, ConfigError> {
    let Some(fields) = message.and_then(|message| message.filter_metadata.get(BALANCING)) else {
        return Ok(None);
    };
    let criteria = of_struct(path, fields)?;
    Ok(Some(criteria).filter(|criteria| !criteria.is_empty()).map(Arc::new))
}

/// What a request asks for by the word of two levels; the inner one counts where both have a word.
pub(super) fn merged(outer: Option<Arc<Criteria>>, inner: Option<Arc<Criteria>>) -> Option<Arc<Criteria>> {
    match (outer, inner) {
        (Some(outer), Some(inner)) => Some(Arc::new(outer.with(&inner))),
        (outer, inner) => inner.or(outer),
    }
}

pub(super) fn of_struct(path: &Path, message: &Struct) -> Result<Criteria, ConfigError> {
    let pairs = message.fields.iter().map(|(key, value)| Ok((key.clone(), text(path, value, 0)?)));
    Ok(Criteria::new(pairs.collect::<Result<Vec<_>, ConfigError>>()?))
}

/// What is known of an endpoint.
pub(super) fn labels(path: &Path, message: Option<&Metadata>) -> Result<Labels, ConfigError> {
    let Some(fields) = message.and_then(|message| message.filter_metadata.get(BALANCING)) else {
        return Ok(Labels::new());
    };
    let label = |(key, value): (&String, &Value)| {
        let elements = match &value.kind {
            Some(Kind::ListValue(list)) => {
                Some(list.values.iter().map(|value| text(path, value, 1)).collect::<Result<_, _>>()?)
            }
            _ => None,
        };
        Ok((key.clone(), (text(path, value, 0)?, elements)))
    };
    fields.fields.iter().map(label).collect()
}

/// A value as a text without line breaks, the same for the same value.
fn text(path: &Path, value: &Value, depth: usize) -> Result<String, ConfigError> {
    if depth > MAX_DEPTH {
        return Err(path.error(format!("values are nested deeper than {MAX_DEPTH}")));
    }
    Ok(match &value.kind {
        None | Some(Kind::NullValue(_)) => "null".to_owned(),
        Some(Kind::NumberValue(number)) => number.to_string(),
        Some(Kind::BoolValue(flag)) => flag.to_string(),
        Some(Kind::StringValue(text)) => format!("{text:?}"),
        Some(Kind::ListValue(list)) => {
            let values = list.values.iter().map(|value| text(path, value, depth + 1));
            format!("[{}]", values.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        Some(Kind::StructValue(fields)) => {
            let mut fields: Vec<_> = fields.fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let fields = fields
                .into_iter()
                .map(|(key, value)| Ok(format!("{key:?}:{}", text(path, value, depth + 1)?)));
            format!("{{{}}}", fields.collect::<Result<Vec<_>, ConfigError>>()?.join(","))
        }
    })
}
