//! One probe: a command, a request or a connection.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{ExecAction, HTTPGetAction, HTTPHeader, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

use crate::{
    http_client,
    runtime::{Container, Runtime, RuntimeError, Sandbox},
};

/// Reaches one instance of a container; also used for lifecycle hooks.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) sandbox: Sandbox,
    pub(crate) container: Container,
    /// The container's ports by name.
    pub(crate) ports: BTreeMap<String, u16>,
}

/// Why a probe failed, as the event says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

/// Longest time that a command may take; the probe's own timeout is shorter.
const EXEC_MAX: Duration = Duration::from_secs(3600);

// === impl Failure ===

impl Failure {
    pub(super) fn timeout(after: Duration) -> Self {
        Self(format!("probe timed out after {after:?}"))
    }
}

// === impl Checker ===

impl Checker {
    pub(super) async fn check(&self, probe: &Probe) -> Result<(), Failure> {
        if let Some(action) = &probe.http_get {
            let (status, _) = self.http_get(action).await?;
            return match status {
                200..400 => Ok(()),
                _ => Err(Failure(format!("HTTP probe failed with statuscode: {status}"))),
            };
        }
        if let Some(action) = &probe.tcp_socket {
            let port = self.port(&action.port)?;
            return self
                .connect(action.host.as_deref(), port)
                .await
                .map(drop)
                .map_err(|error| Failure(error.to_string()));
        }
        if let Some(action) = &probe.exec {
            return self.exec(action, EXEC_MAX).await;
        }
        if probe.grpc.is_some() {
            return Err(Failure("gRPC probes are not supported; use httpGet, tcpSocket or exec".into()));
        }
        Err(Failure("the probe has no action".into()))
    }

    /// Sends the request of a probe or hook; the status and the beginning of the body.
    pub(crate) async fn http_get(&self, action: &HTTPGetAction) -> Result<(u16, String), Failure> {
        if action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
            return Err(Failure("HTTPS probes are not supported; use http, tcpSocket or exec".into()));
        }
        let port = self.port(&action.port)?;
        let host = action.host.as_deref().filter(|host| !host.is_empty());
        let stream = self.connect(host, port).await.map_err(|error| Failure(error.to_string()))?;
        let authority =
            format!("{}:{port}", host.map_or_else(|| self.sandbox.pod_ip.to_string(), str::to_owned));
        let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let headers: Vec<HTTPHeader> = action.http_headers.clone().unwrap_or_default();
        let headers = headers.iter().map(|header| (header.name.as_str(), header.value.as_str()));
        let answer = http_client::request(stream, "GET", &authority, path, headers).await;
        answer.map_err(|error| Failure(weft_kit::error::chain(&error)))
    }

    /// Runs the command of a probe or hook.
    pub(crate) async fn exec(&self, action: &ExecAction, timeout: Duration) -> Result<(), Failure> {
        let command = action.command.clone().unwrap_or_default();
        match self.runtime.exec(&self.container, &command, timeout).await {
            Ok(outcome) if outcome.exit_code == 0 => Ok(()),
            Ok(outcome) => {
                let output = outcome.output.trim();
                let what = format!("command {:?} exited with {}", command.join(" "), outcome.exit_code);
                Err(Failure(if output.is_empty() { what } else { format!("{what}: {output}") }))
            }
            Err(error @ RuntimeError::ExecTimeout(_)) => Err(Failure(error.to_string())),
            Err(error) => Err(Failure(weft_kit::error::chain(&error))),
        }
    }

    async fn connect(&self, host: Option<&str>, port: u16) -> io::Result<TcpStream> {
        match host.filter(|host| !host.is_empty()) {
            Some(host) => TcpStream::connect((host, port)).await,
            None => self.runtime.connect(&self.sandbox, port).await,
        }
    }

    fn port(&self, port: &IntOrString) -> Result<u16, Failure> {
        let unknown =
            |name: &dyn std::fmt::Display| Failure(format!("{name} is not a port of the container"));
        match port {
            IntOrString::Int(number) => {
                u16::try_from(*number).ok().filter(|port| *port > 0).ok_or_else(|| unknown(number))
            }
            IntOrString::String(name) => match self.ports.get(name) {
                Some(port) => Ok(*port),
                None => name.parse().map_err(|_| unknown(name)),
            },
        }
    }
}
