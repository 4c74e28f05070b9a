//! What an API server is told at its start.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Settings of an [`crate::ApiServer`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Where HTTPS is served. Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// The host that kubeconfigs name and that the server's certificate is made out to, beside the listen address.
    pub advertise_host: String,
    /// Where certificates and tokens are kept. Made if it is missing.
    pub data_dir: PathBuf,
    /// From where Services get their cluster addresses. Default 10.96.0.0/20, the start of kubeadm's range.
    pub service_cidr: ServiceCidr,
    /// The domain of the cluster's names; the server's certificate is valid for `kubernetes.default.svc` in it.
    /// Default `cluster.local`.
    pub cluster_domain: String,
}

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceCidr {
    base: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no usable range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IPv4 range between /8 and /28 such as 10.96.0.0/20")]
pub struct CidrError {
    text: String,
}

// === impl Config ===

impl Config {
    /// Settings with every default, for a server that keeps its files in `data_dir`.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443),
            advertise_host: Ipv4Addr::LOCALHOST.to_string(),
            data_dir,
            service_cidr: ServiceCidr::default(),
            cluster_domain: "cluster.local".to_owned(),
        }
    }
}

// === impl ServiceCidr ===

impl Default for ServiceCidr {
    fn default() -> Self {
        Self { base: Ipv4Addr::new(10, 96, 0, 0), prefix: 20 }
    }
}

impl std::str::FromStr for ServiceCidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError { text: text.to_owned() };
        let (base, prefix) = text.split_once('/').ok_or_else(error)?;
        let base: Ipv4Addr = base.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        if !(8..=28).contains(&prefix) {
            return Err(error());
        }
        let mask = u32::MAX << (32 - prefix);
        Ok(Self { base: Ipv4Addr::from(u32::from(base) & mask), prefix })
    }
}

impl ServiceCidr {
    /// How many addresses can be given out: all but the first and the last.
    pub(crate) fn size(&self) -> u32 {
        (1 << (32 - self.prefix)) - 2
    }

    /// The usable address with this index, from 0.
    pub(crate) fn address(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1 + index % self.size())
    }

    /// Whether an address can be given out.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.base));
        (1..=self.size()).contains(&offset)
    }

    /// The address of the service `kubernetes`.
    pub fn first(&self) -> Ipv4Addr {
        self.address(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_out_all_but_its_ends() {
        let cidr: ServiceCidr = "10.96.3.4/28".parse().unwrap();
        assert_eq!(cidr.first().to_string(), "10.96.3.1");
        assert_eq!(cidr.size(), 14);
        assert_eq!(cidr.address(13).to_string(), "10.96.3.14");
        assert!(
            !cidr.contains("10.96.3.0".parse().unwrap()) && !cidr.contains("10.96.3.15".parse().unwrap())
        );
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/30", "x/8", "::/64"] {
            assert!(text.parse::<ServiceCidr>().is_err(), "{text}");
        }
    }
}
