//! Compiling the filters of access logs.

use weft_xds::pb::envoy::{
    config::accesslog::v3::{
        AccessLogFilter, ComparisonFilter, RuntimeFilter, access_log_filter::FilterSpecifier,
        comparison_filter::Op,
    },
    r#type::v3::fractional_percent::DenominatorType,
};

use super::{ConfigError, Path, matcher};
use crate::access_log::{
    filter::{Comparison, Filter, How},
    operator::is_flag,
};

/// Filters in filters: as deep as anybody needs, and far from the end of the stack.
const MAX_DEPTH: usize = 16;

/// Compiles the filter at `path`.
pub(super) fn compile(path: &Path, message: &AccessLogFilter) -> Result<Filter, ConfigError> {
    at_depth(path, message, 0)
}

fn at_depth(path: &Path, message: &AccessLogFilter, depth: usize) -> Result<Filter, ConfigError> {
    if depth > MAX_DEPTH {
        return Err(path.error(format!("filters are nested deeper than {MAX_DEPTH}")));
    }
    let specifier =
        message.filter_specifier.as_ref().ok_or_else(|| path.field("filter_specifier").missing())?;
    Ok(match specifier {
        FilterSpecifier::StatusCodeFilter(filter) => {
            Filter::Status(comparison(&path.field("status_code_filter"), filter.comparison.as_ref())?)
        }
        FilterSpecifier::DurationFilter(filter) => {
            Filter::Duration(comparison(&path.field("duration_filter"), filter.comparison.as_ref())?)
        }
        FilterSpecifier::NotHealthCheckFilter(_) => Filter::NotHealthCheck,
        FilterSpecifier::RuntimeFilter(filter) => random(&path.field("runtime_filter"), filter)?,
        FilterSpecifier::AndFilter(filter) => {
            Filter::And(several(&path.field("and_filter"), &filter.filters, depth)?)
        }
        FilterSpecifier::OrFilter(filter) => {
            Filter::Or(several(&path.field("or_filter"), &filter.filters, depth)?)
        }
        FilterSpecifier::HeaderFilter(filter) => {
            let path = path.field("header_filter").field("header");
            let header = filter.header.as_ref().ok_or_else(|| path.missing())?;
            Filter::Header(matcher::header(&path, header)?)
        }
        FilterSpecifier::ResponseFlagFilter(filter) => {
            for (index, flag) in filter.flags.iter().enumerate() {
                if !is_flag(flag) {
                    return Err(path
                        .field("response_flag_filter")
                        .item("flags", index)
                        .error(format!("{flag:?} is not a flag that this proxy sets")));
                }
            }
            Filter::Flags(filter.flags.clone())
        }
        FilterSpecifier::GrpcStatusFilter(_) => return Err(path.field("grpc_status_filter").unsupported()),
        FilterSpecifier::TraceableFilter(_) => return Err(path.field("traceable_filter").unsupported()),
        FilterSpecifier::ExtensionFilter(_) => return Err(path.field("extension_filter").unsupported()),
        FilterSpecifier::MetadataFilter(_) => return Err(path.field("metadata_filter").unsupported()),
        FilterSpecifier::LogTypeFilter(_) => return Err(path.field("log_type_filter").unsupported()),
    })
}

fn several(path: &Path, filters: &[AccessLogFilter], depth: usize) -> Result<Vec<Filter>, ConfigError> {
    if filters.len() < 2 {
        return Err(path.field("filters").error("must have at least two filters"));
    }
    filters
        .iter()
        .enumerate()
        .map(|(index, filter)| at_depth(&path.item("filters", index), filter, depth + 1))
        .collect()
}

/// There are no runtime values, so the default is the value, as in an Envoy without them.
fn comparison(path: &Path, message: Option<&ComparisonFilter>) -> Result<Comparison, ConfigError> {
    let path = path.field("comparison");
    let message = message.ok_or_else(|| path.missing())?;
    let how = match Op::try_from(message.op) {
        Ok(Op::Eq) => How::Equal,
        Ok(Op::Ge) => How::AtLeast,
        Ok(Op::Le) => How::AtMost,
        Ok(Op::Ne) => How::NotEqual,
        Err(_) => return Err(path.field("op").error("is not a known value")),
    };
    let value = message.value.as_ref().ok_or_else(|| path.field("value").missing())?;
    Ok(Comparison { how, value: u64::from(value.default_value) })
}

fn random(path: &Path, filter: &RuntimeFilter) -> Result<Filter, ConfigError> {
    let Some(percent) = &filter.percent_sampled else { return Ok(Filter::Random(0)) };
    let scale = match DenominatorType::try_from(percent.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(path.field("percent_sampled.denominator").error("is not a known value")),
    };
    Ok(Filter::Random(percent.numerator.saturating_mul(scale)))
}
