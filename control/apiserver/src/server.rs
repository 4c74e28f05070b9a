//! Starting and using an API server.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weft_api::{registry, status::Status};
use weft_store::Store;

use crate::{
    admission::ServiceAddresses,
    aggregate::{AggregatedResource, AggregatedService, Aggregation},
    app::{App, MAX_IN_FLIGHT},
    auth::{Caller, Identity, accounts::Accounts, tokens::Tokens},
    bootstrap,
    config::Config,
    listener,
    metrics::Metrics,
    node_client::{NodeClient, NodeClientError},
    openapi::OpenApi,
    pki::{ClusterPki, PkiError},
    storage::{Cache, FillError, Storage},
    tls::{self, TlsError},
};

/// Why an API server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cluster's certificate authority cannot be opened.
    #[error("cannot open the certificate authority")]
    Pki(#[source] PkiError),
    /// The file of tokens cannot be made.
    #[error("cannot make the file of tokens")]
    Tokens(#[source] PkiError),
    /// TLS cannot be set up.
    #[error("cannot set up HTTPS")]
    Tls(#[source] TlsError),
    /// Connections to nodes cannot be set up.
    #[error("cannot set up the client for nodes")]
    Nodes(#[source] NodeClientError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be read.
    #[error("cannot read the objects")]
    Fill(#[source] FillError),
    /// The objects that every cluster has cannot be made.
    #[error("cannot make the first objects")]
    Bootstrap(#[source] Status),
    /// Two metrics of this process have the same name.
    #[error("cannot register the metrics")]
    Metrics(#[source] prometheus::Error),
}

/// A running API server.
pub struct ApiServer {
    app: Arc<App>,
    pki: Arc<ClusterPki>,
    address: SocketAddr,
    admin_kubeconfig: String,
    /// What clients may call it.
    names: Vec<String>,
    tasks: TaskTracker,
}

/// Starts an API server over `store`. It serves when this returns, and ends soon after `shutdown` is cancelled.
pub async fn start(
    config: Config,
    store: Arc<dyn Store>,
    shutdown: CancellationToken,
) -> Result<ApiServer, StartError> {
    let pki = Arc::new(ClusterPki::open(&config.data_dir.join("pki")).map_err(StartError::Pki)?);
    let tokens = Tokens::open(&tokens_path(&config)).map_err(StartError::Tokens)?;
    let accounts = config.data_dir.join("pki").join("service-accounts.key");
    let accounts = Accounts::open(&accounts).map_err(StartError::Tokens)?;
    let tls = TlsAcceptor::from(tls::server_config(&pki, &names(&config)).map_err(StartError::Tls)?);
    let nodes = NodeClient::new(&pki, shutdown.clone()).map_err(StartError::Nodes)?;
    let metrics = Metrics::new().map_err(StartError::Metrics)?;
    let listen = |source| StartError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let admin_kubeconfig = admin_kubeconfig(&config, &pki, address.port()).map_err(StartError::Pki)?;
    let (cache, events) = Cache::fill(store.clone()).await.map_err(StartError::Fill)?;

    let tasks = TaskTracker::new();
    tasks.spawn(cache.clone().follow(events, shutdown.clone()));
    cache.catch_up().await.map_err(StartError::Bootstrap)?;
    let services = registry::find("", "v1", "services").map(|resource| cache.snapshot(resource, None).0);
    let services = services.unwrap_or_default();
    let services = ServiceAddresses::new(config.service_cidr, services.iter().map(|object| object.value()));
    let app = Arc::new(App {
        storage: Storage { store, cache },
        services,
        tokens,
        accounts,
        metrics,
        nodes,
        openapi: OpenApi::default(),
        aggregations: ArcSwap::default(),
        in_flight: Semaphore::new(MAX_IN_FLIGHT),
        address: format!("{}:{}", config.advertise_host, address.port()),
        shutdown,
    });
    bootstrap::run(&app, config.service_cidr, address.port()).await.map_err(StartError::Bootstrap)?;
    tasks.spawn(listener::serve(app.clone(), listener, tls));
    tasks.close();
    tracing::info!(%address, "api server listens");
    Ok(ApiServer { app, pki, address, admin_kubeconfig, names: names(&config), tasks })
}

// === impl ApiServer ===

impl ApiServer {
    /// Where HTTPS is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client within the process: no TLS, no socket, but the same rights as over the network.
    pub fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        let app = self.app.clone();
        let caller = Caller::InProcess(Arc::new(Identity::known(user, groups.iter().copied())));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (app, caller) = (app.clone(), caller.clone());
            async move {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                Ok::<_, Infallible>(app.serve(request, caller).await)
            }
        });
        kube::Client::new(service, "default")
    }

    /// A kubeconfig with every right, by client certificate.
    pub fn admin_kubeconfig(&self) -> String {
        self.admin_kubeconfig.clone()
    }

    /// The cluster's certificate authority.
    pub fn pki(&self) -> &ClusterPki {
        &self.pki
    }

    /// TLS with HTTP/2 for another server of this process, under the names of this one and `names`.
    pub fn server_tls(&self, names: &[&str]) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let mut all = self.names.clone();
        all.extend(names.iter().map(|name| (*name).to_owned()));
        tls::grpc_config(&self.pki, &all)
    }

    /// The registry whose content `/metrics` shows. The other parts of the process may register theirs.
    pub fn metrics_registry(&self) -> &prometheus::Registry {
        &self.app.metrics.registry
    }

    /// Lets `service` answer for a group version. A group version that is served already is replaced.
    pub fn aggregate(
        &self,
        group: &str,
        version: &str,
        resources: Vec<AggregatedResource>,
        service: AggregatedService,
    ) {
        let (group, version) = (group.to_owned(), version.to_owned());
        let added = Arc::new(Aggregation { group, version, resources, service });
        self.app.aggregations.rcu(|current| {
            let others =
                current.iter().filter(|old| old.group != added.group || old.version != added.version);
            others.cloned().chain([added.clone()]).collect::<Vec<_>>()
        });
    }

    /// Resolves when the server has ended: some time after its token was cancelled.
    pub async fn stopped(self) {
        self.tasks.wait().await;
    }
}

fn tokens_path(config: &Config) -> PathBuf {
    config.data_dir.join("tokens.csv")
}

/// Everything that clients may call the server.
fn names(config: &Config) -> Vec<String> {
    let domain = &config.cluster_domain;
    let mut names = vec![
        config.advertise_host.clone(),
        config.listen.ip().to_string(),
        config.service_cidr.first().to_string(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
    ];
    names.sort();
    names.dedup();
    names
}

fn admin_kubeconfig(config: &Config, pki: &ClusterPki, port: u16) -> Result<String, PkiError> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    let (cert, key) = pki.issue_client("weft-admin", &["system:masters"])?;
    let host = &config.advertise_host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    // JSON is YAML, and every reader of kubeconfigs takes it.
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "weft", "cluster": {
            "server": format!("https://{host}:{port}"),
            "certificate-authority-data": STANDARD.encode(pki.ca_pem()),
        }}],
        "users": [{"name": "weft-admin", "user": {
            "client-certificate-data": STANDARD.encode(cert),
            "client-key-data": STANDARD.encode(key),
        }}],
        "contexts": [{"name": "weft", "context": {"cluster": "weft", "user": "weft-admin", "namespace": "default"}}],
        "current-context": "weft",
    });
    Ok(format!("{kubeconfig:#}\n"))
}
