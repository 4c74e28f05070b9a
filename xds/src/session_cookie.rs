//! What Envoy writes into the cookie of a stateful session: `envoy.Cookie`, which is part of no published API.

use prost::Message;

/// The endpoint that a client comes back to.
#[derive(Clone, PartialEq, Message)]
struct Cookie {
    #[prost(string, tag = "1")]
    address: String,
    /// In seconds since 1970; 0 is never.
    #[prost(uint64, tag = "2")]
    expires: u64,
}

/// The bytes for an address that is good until `expires`, in seconds; 0 is for ever.
pub fn encode(address: &str, expires: u64) -> Vec<u8> {
    Cookie { address: address.to_owned(), expires }.encode_to_vec()
}

/// The address in these bytes and until when it is good.
pub fn decode(bytes: &[u8]) -> Option<(String, u64)> {
    let cookie = Cookie::decode(bytes).ok()?;
    Some((cookie.address, cookie.expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_envoy() {
        let bytes = encode("10.0.0.1:80", 7);
        assert_eq!(bytes, b"\x0a\x0b10.0.0.1:80\x10\x07");
        assert_eq!(decode(&bytes), Some(("10.0.0.1:80".to_owned(), 7)));
        assert_eq!(decode(b"\xff"), None);
    }
}
