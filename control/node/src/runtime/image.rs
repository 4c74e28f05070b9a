//! Image names, as far as both runtimes share them.

/// When an image is looked for in a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// At every start.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// Never.
    Never,
}

/// The images that are made of our own binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnImage {
    /// `weft.dev/demo`: the demo's services.
    Demo,
    /// `weft.dev/proxy`: the sidecar.
    Proxy,
}

/// Which of our images a name means, if any.
pub(crate) fn own_image(name: &str) -> Option<OwnImage> {
    let name = name.strip_suffix(":latest").unwrap_or(name);
    match name {
        "weft.dev/demo" => Some(OwnImage::Demo),
        "weft.dev/proxy" => Some(OwnImage::Proxy),
        _ => None,
    }
}

// === impl PullPolicy ===

impl PullPolicy {
    /// The policy that a pod names, or Kubernetes' default for the image's tag.
    pub(crate) fn of(policy: Option<&str>, image: &str) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None if has_latest_tag(image) => Self::Always,
            None => Self::IfNotPresent,
        }
    }
}

fn has_latest_tag(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_policy_the_tag_decides() {
        assert_eq!(PullPolicy::of(None, "busybox"), PullPolicy::Always);
        assert_eq!(PullPolicy::of(None, "host:5000/busybox"), PullPolicy::Always);
        assert_eq!(PullPolicy::of(None, "busybox:1.36"), PullPolicy::IfNotPresent);
        assert_eq!(PullPolicy::of(None, "busybox@sha256:00"), PullPolicy::IfNotPresent);
        assert_eq!(PullPolicy::of(Some("Never"), "busybox"), PullPolicy::Never);
    }

    #[test]
    fn only_our_exact_names_are_ours() {
        assert_eq!(own_image("weft.dev/demo:latest"), Some(OwnImage::Demo));
        assert_eq!(own_image("weft.dev/demo"), Some(OwnImage::Demo));
        assert_eq!(own_image("weft.dev/demo:1"), None);
        assert_eq!(own_image("docker.io/weft.dev/demo"), None);
    }
}
