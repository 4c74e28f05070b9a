//! Compiling `Compressor`.

use std::{collections::BTreeSet, sync::Arc};

use weft_xds::{
    any,
    pb::{
        envoy::{
            config::core::v3::TypedExtensionConfig,
            extensions::{
                compression::{
                    brotli::compressor::v3::{Brotli as ProtoBrotli, brotli::EncoderMode},
                    gzip::compressor::v3::{Gzip, gzip::CompressionLevel},
                    zstd::compressor::v3::Zstd,
                },
                filters::http::compressor::v3::{
                    Compressor as Proto, CompressorPerRoute,
                    compressor::{CommonDirectionConfig, ResponseDirectionConfig},
                    compressor_per_route::Override,
                },
            },
        },
        google::protobuf::UInt32Value,
    },
};

use super::{
    ASKED_COUNTERS, COUNTERS, Compressor, Etag, OfRoute, Spec, Types,
    coder::{Brotli, BrotliMode, Library},
};
use crate::{
    config::{ConfigError, Path, matcher, unsupported, value},
    filter::{Inputs, Kind},
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.compressor.v3.Compressor",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        let spec = Arc::new(spec(path, &message, inputs)?);
        inputs.compressors.push(Arc::clone(&spec));
        Ok(Box::new(Compressor { spec, chain: Arc::clone(&inputs.chain) }))
    },
    of_route: Some(("envoy.extensions.filters.http.compressor.v3.CompressorPerRoute", |path, config, _| {
        let message = value::unpacked(path, any::unpack::<CompressorPerRoute>(config))?;
        Ok(Arc::new(of_route(path, &message)?))
    })),
};

const MIN_LENGTH: u32 = 30;

/// Envoy's, in its order.
const TYPES: [&str; 20] = [
    "text/html",
    "text/plain",
    "text/css",
    "application/javascript",
    "application/x-javascript",
    "text/javascript",
    "text/x-javascript",
    "text/ecmascript",
    "text/js",
    "text/jscript",
    "text/x-js",
    "application/ecmascript",
    "application/x-json",
    "application/xml",
    "application/json",
    "image/svg+xml",
    "text/xml",
    "application/xhtml+xml",
    "application/grpc-web",
    "application/grpc-web+proto",
];

fn spec(path: &Path, message: &Proto, inputs: &Inputs<'_>) -> Result<Spec, ConfigError> {
    unsupported!(path, message; request_direction_config);
    let library_path = path.field("compressor_library");
    let named = message.compressor_library.as_ref().ok_or_else(|| library_path.missing())?;
    let library = library(&library_path.field("typed_config"), named)?;
    let (path, response) = match &message.response_direction_config {
        Some(response) => (path.field("response_direction_config"), response.clone()),
        None => (path.clone(), older(message)),
    };
    unsupported!(path, response; status_header_enabled);
    let common_path = match &message.response_direction_config {
        Some(_) => path.field("common_config"),
        None => path.clone(),
    };
    let common = response.common_config.clone().unwrap_or_default();
    let mut uncompressible = BTreeSet::new();
    for (index, code) in response.uncompressible_response_codes.iter().enumerate() {
        let path = path.item("uncompressible_response_codes", index);
        if !uncompressible.insert(value::status(&path, *code)?) {
            return Err(path.error("is there already"));
        }
    }
    let stats = format!("envoy_http_compressor_{}_{}_", metric_name(&named.name), library.stats());
    let direction = if message.response_direction_config.is_some() { "response_" } else { "" };
    Ok(Spec {
        place: inputs.compressors.len(),
        choose_first: message.choose_first,
        enabled: value::flag(common.enabled.as_ref()),
        min_length: u64::from(match value::number(common.min_content_length.as_ref(), 0) {
            // As in Envoy.
            0 => MIN_LENGTH,
            length => length,
        }),
        types: types(&common_path, &common)?,
        etag: match (response.weaken_etag_on_compress, response.disable_on_etag_header) {
            (true, _) => Etag::Weaken,
            (false, true) => Etag::Keep,
            (false, false) => Etag::Remove,
        },
        remove_accept_encoding: response.remove_accept_encoding_header,
        uncompressible,
        stats: inputs.named_counters(&format!("{stats}{direction}"), &COUNTERS),
        asked: inputs.named_counters(&stats, &ASKED_COUNTERS),
        library,
    })
}

/// What older control planes say, in the words of newer ones.
#[expect(deprecated, reason = "older control planes still send it")]
fn older(message: &Proto) -> ResponseDirectionConfig {
    ResponseDirectionConfig {
        common_config: Some(CommonDirectionConfig {
            enabled: message.runtime_enabled.clone(),
            min_content_length: message.content_length,
            content_type: message.content_type.clone(),
            ..CommonDirectionConfig::default()
        }),
        disable_on_etag_header: message.disable_on_etag_header,
        remove_accept_encoding_header: message.remove_accept_encoding_header,
        ..ResponseDirectionConfig::default()
    }
}

fn types(path: &Path, message: &CommonDirectionConfig) -> Result<Types, ConfigError> {
    if !message.content_type_matcher.is_empty() {
        let matchers = message.content_type_matcher.iter().enumerate();
        let matchers = matchers
            .map(|(index, matcher)| matcher::text_match(&path.item("content_type_matcher", index), matcher));
        return Ok(Types::Matching(matchers.collect::<Result<_, _>>()?));
    }
    #[expect(deprecated, reason = "what everybody still uses")]
    let listed = &message.content_type;
    Ok(Types::Listed(if listed.is_empty() {
        TYPES.map(str::to_owned).to_vec()
    } else {
        listed.iter().map(|media| media.to_ascii_lowercase()).collect()
    }))
}

fn of_route(path: &Path, message: &CompressorPerRoute) -> Result<OfRoute, ConfigError> {
    match message.r#override.as_ref().ok_or_else(|| path.missing())? {
        Override::Disabled(true) => Ok(OfRoute { enabled: Some(false), ..OfRoute::default() }),
        Override::Disabled(false) => Err(path.field("disabled").error("must be true")),
        Override::Overrides(overrides) => {
            unsupported!(path.field("overrides"), overrides; compressor_library);
            let Some(response) = &overrides.response_direction_config else { return Ok(OfRoute::default()) };
            let remove = response.remove_accept_encoding_header.map(|remove| remove.value);
            Ok(OfRoute { enabled: Some(true), remove_accept_encoding: remove })
        }
    }
}

fn library(path: &Path, named: &TypedExtensionConfig) -> Result<Library, ConfigError> {
    const GZIP: &str = "envoy.extensions.compression.gzip.compressor.v3.Gzip";
    const BROTLI: &str = "envoy.extensions.compression.brotli.compressor.v3.Brotli";
    const ZSTD: &str = "envoy.extensions.compression.zstd.compressor.v3.Zstd";

    let config = named.typed_config.as_ref().ok_or_else(|| path.missing())?;
    match any::type_name(&config.type_url) {
        GZIP => gzip(path, &value::unpacked(path, any::unpack::<Gzip>(config))?),
        BROTLI => brotli(path, &value::unpacked(path, any::unpack::<ProtoBrotli>(config))?),
        ZSTD => zstd(path, &value::unpacked(path, any::unpack::<Zstd>(config))?),
        other => Err(path.field("@type").error(format!("{other} is not supported"))),
    }
}

/// `memory_level` and `chunk_size` are about memory only, of which the coder here has its own idea.
fn gzip(path: &Path, message: &Gzip) -> Result<Library, ConfigError> {
    unsupported!(path, message; compression_strategy);
    within(path, "memory_level", message.memory_level.as_ref(), 1..=9, 5)?;
    chunk_size(path, message.chunk_size.as_ref())?;
    let level = match CompressionLevel::try_from(message.compression_level) {
        Ok(CompressionLevel::DefaultCompression) => 6,
        Ok(level) => level as u32,
        Err(_) => return Err(path.field("compression_level").error("is not a known value")),
    };
    let window_bits = within(path, "window_bits", message.window_bits.as_ref(), 9..=15, 12)?;
    Ok(Library::Gzip { level, window_bits })
}

fn brotli(path: &Path, message: &ProtoBrotli) -> Result<Library, ConfigError> {
    chunk_size(path, message.chunk_size.as_ref())?;
    let mode = match EncoderMode::try_from(message.encoder_mode) {
        Ok(EncoderMode::Default | EncoderMode::Generic) => BrotliMode::Generic,
        Ok(EncoderMode::Text) => BrotliMode::Text,
        Ok(EncoderMode::Font) => BrotliMode::Font,
        Err(_) => return Err(path.field("encoder_mode").error("is not a known value")),
    };
    let block_bits = message.input_block_bits.as_ref();
    let block_bits = match block_bits {
        Some(_) => Some(within(path, "input_block_bits", block_bits, 16..=24, 0)?),
        None => None,
    };
    Ok(Library::Brotli(Brotli {
        quality: within(path, "quality", message.quality.as_ref(), 0..=11, 3)?,
        mode,
        window_bits: within(path, "window_bits", message.window_bits.as_ref(), 10..=24, 18)?,
        block_bits,
        literal_context: !message.disable_literal_context_modeling,
    }))
}

fn zstd(path: &Path, message: &Zstd) -> Result<Library, ConfigError> {
    unsupported!(path, message; strategy, dictionary);
    chunk_size(path, message.chunk_size.as_ref())?;
    let level = match within(path, "compression_level", message.compression_level.as_ref(), 0..=22, 0)? {
        0 => 3,
        level => i32::from(level),
    };
    Ok(Library::Zstd { level, checksum: message.enable_checksum })
}

fn chunk_size(path: &Path, value: Option<&UInt32Value>) -> Result<(), ConfigError> {
    match value {
        Some(size) if !(4096..=65536).contains(&size.value) => {
            Err(path.field("chunk_size").error("must be from 4096 to 65536"))
        }
        _ => Ok(()),
    }
}

fn within(
    path: &Path,
    name: &str,
    value: Option<&UInt32Value>,
    range: std::ops::RangeInclusive<u8>,
    default: u8,
) -> Result<u8, ConfigError> {
    let Some(value) = value else { return Ok(default) };
    u8::try_from(value.value)
        .ok()
        .filter(|value| range.contains(value))
        .ok_or_else(|| path.field(name).error(format!("must be from {} to {}", range.start(), range.end())))
}

/// A name as a part of a metric's.
fn metric_name(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

impl Library {
    /// As in the names of metrics.
    fn stats(&self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli(_) => "brotli",
            Self::Zstd { .. } => "zstd",
        }
    }
}
