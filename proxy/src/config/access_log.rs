//! Compiling access logs.

use std::sync::Arc;

use weft_xds::{
    any, json,
    pb::envoy::{
        config::{
            accesslog::v3::{AccessLog as ProtoLog, access_log::ConfigType},
            core::v3::{SubstitutionFormatString, substitution_format_string::Format as ProtoFormat},
        },
        extensions::access_loggers::{
            file::v3::{FileAccessLog, file_access_log::AccessLogFormat as FileFormat},
            stream::v3::{
                StderrAccessLog, StdoutAccessLog, stderr_access_log::AccessLogFormat as StderrFormat,
                stdout_access_log::AccessLogFormat as StdoutFormat,
            },
        },
    },
};

use super::{ConfigError, Path, access_log_filter, names::Names, unsupported, value};
use crate::access_log::{
    AccessLog,
    format::{self, Format},
};

/// Compiles the field `access_log` of the message at `path`.
pub(super) fn compile(
    path: &Path,
    logs: &[ProtoLog],
    names: &mut Names,
) -> Result<Vec<Arc<AccessLog>>, ConfigError> {
    logs.iter().enumerate().map(|(index, log)| one(&path.item("access_log", index), log, names)).collect()
}

fn one(path: &Path, message: &ProtoLog, names: &mut Names) -> Result<Arc<AccessLog>, ConfigError> {
    let filter = match &message.filter {
        None => None,
        Some(filter) => Some(access_log_filter::compile(&path.field("filter"), filter)?),
    };
    let path = path.field("typed_config");
    let Some(ConfigType::TypedConfig(config)) = &message.config_type else { return Err(path.missing()) };
    let (target, format) = match any::type_name(&config.type_url) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            let log = value::unpacked(&path, any::unpack::<FileAccessLog>(config))?;
            #[expect(deprecated, reason = "older configurations still use these")]
            let format = match &log.access_log_format {
                None => None,
                Some(FileFormat::LogFormat(format)) => Some(substitution(&path.field("log_format"), format)?),
                Some(FileFormat::Format(text)) => {
                    Some(Format::text(text).map_err(|reason| path.field("format").error(reason))?)
                }
                Some(FileFormat::JsonFormat(fields)) => {
                    Some(json_format(&path.field("json_format"), fields)?)
                }
                Some(FileFormat::TypedJsonFormat(fields)) => {
                    Some(json_format(&path.field("typed_json_format"), fields)?)
                }
            };
            if log.path.is_empty() {
                return Err(path.field("path").missing());
            }
            (log.path, format)
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let log = value::unpacked(&path, any::unpack::<StdoutAccessLog>(config))?;
            let format = log
                .access_log_format
                .as_ref()
                .map(|StdoutFormat::LogFormat(format)| substitution(&path.field("log_format"), format))
                .transpose()?;
            ("/dev/stdout".to_owned(), format)
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            let log = value::unpacked(&path, any::unpack::<StderrAccessLog>(config))?;
            let format = log
                .access_log_format
                .as_ref()
                .map(|StderrFormat::LogFormat(format)| substitution(&path.field("log_format"), format))
                .transpose()?;
            ("/dev/stderr".to_owned(), format)
        }
        other => return Err(path.field("@type").error(format!("access logger {other:?} is not supported"))),
    };
    let format = match format {
        Some(format) => format,
        None => Format::text(format::DEFAULT).map_err(|reason| path.error(reason))?,
    };
    let output = names
        .log_output(&target)
        .map_err(|error| path.field("path").error(format!("cannot open {target:?}: {error}")))?;
    Ok(Arc::new(AccessLog { filter, format, output }))
}

fn substitution(path: &Path, message: &SubstitutionFormatString) -> Result<Format, ConfigError> {
    // The content type is about local replies only, and the keys of JSON are sorted whatever the options say, as in Envoy.
    unsupported!(path, message; formatters);
    let format = match &message.format {
        #[expect(deprecated, reason = "the usual way to write it still")]
        Some(ProtoFormat::TextFormat(text)) => {
            Format::text(text).map_err(|reason| path.field("text_format").error(reason))
        }
        Some(ProtoFormat::TextFormatSource(source)) => {
            let path = path.field("text_format_source");
            let text = value::inline_data(&path, Some(source))?;
            Format::text(&String::from_utf8_lossy(&text)).map_err(|reason| path.error(reason))
        }
        Some(ProtoFormat::JsonFormat(fields)) => json_format(&path.field("json_format"), fields),
        None => Err(path.field("text_format_source").missing()),
    }?;
    Ok(format.omit_empty(message.omit_empty_values))
}

fn json_format(path: &Path, fields: &weft_xds::pb::google::protobuf::Struct) -> Result<Format, ConfigError> {
    let value = json::to_json(fields).map_err(|error| path.error(error.reason))?;
    let fields = value.as_object().ok_or_else(|| path.error("must be an object"))?;
    Format::json(fields).map_err(|reason| path.error(reason))
}
