//! What the fuzz targets compare the proxy with: readers that are naive, strict and written from the RFC alone.

pub mod pieces;
pub mod rfc9112;
