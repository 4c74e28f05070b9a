//! The real kubectl against the real listener.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use crate::support::{Server, deployment};

/// The first kubectl in the search path.
fn kubectl() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|directory| directory.join("kubectl")).find(|path| path.is_file())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_creates_applies_scales_and_deletes() {
    let Some(kubectl) = kubectl() else {
        weft_tests::record::skip("kubectl_creates_applies_scales_and_deletes", "no kubectl on PATH");
        return;
    };
    let server = Server::start().await;
    let home = server.directory.path().join("home");
    let kubeconfig = server.directory.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.api.admin_kubeconfig()).unwrap();
    let manifest = server.directory.path().join("web.json");
    std::fs::write(&manifest, deployment("web").to_string()).unwrap();
    let manifest = manifest.to_str().unwrap().to_owned();
    let run = move |arguments: &[&str]| {
        let mut command = Command::new(&kubectl);
        command.args(arguments).env("KUBECONFIG", &kubeconfig).env("HOME", &home);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "kubectl {arguments:?}: {stderr}");
        stdout.into_owned()
    };
    let ran = tokio::task::spawn_blocking(move || {
        // Typed writes are protobuf since 1.32.
        assert!(run(&["create", "deployment", "typed", "--image=x:1"]).contains("created"));
        assert!(run(&["apply", "-f", &manifest]).contains("created"));
        assert!(run(&["apply", "-f", &manifest]).contains("unchanged"));
        assert!(run(&["scale", "deployment", "web", "--replicas=5"]).contains("scaled"));
        assert!(run(&["set", "image", "deployment/web", "c=y:2"]).contains("image updated"));
        assert!(run(&["label", "deployment", "web", "a=b"]).contains("labeled"));
        let table = run(&["get", "deployments", "-o", "wide"]);
        assert!(table.starts_with("NAME    READY   UP-TO-DATE   AVAILABLE"), "{table}");
        assert!(table.contains("0/5"), "{table}");
        assert!(run(&["explain", "deployment.spec.replicas"]).contains("<integer>"));
        assert!(run(&["api-resources"]).contains("endpointslices"));
        assert!(run(&["delete", "deployment", "web", "typed"]).contains("deleted"));
    });
    ran.await.unwrap();
}
