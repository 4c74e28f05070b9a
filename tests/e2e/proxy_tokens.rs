//! xDS: a proxy gets its own configuration only, and has to prove whose that is; over TLS or on this machine.

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::process::Command;
use weft_tests::{
    cluster::{Cluster, Runtime},
    kubectl, need, process, python, serial,
    xds_client::Control,
};

use crate::echo;

#[tokio::test(flavor = "multi_thread")]
async fn only_who_proves_to_be_a_proxy_gets_its_configuration() -> anyhow::Result<()> {
    let _serial = serial().await;
    let test = "proxy_tokens";
    let python = need!(test, python::find("envoy.service.discovery.v3.ads_pb2_grpc").await);
    need!(test, kubectl::find());
    let cluster = Cluster::up(Runtime::Process, false).await?;
    let kubectl = cluster.kubectl()?;
    echo::deploy(&kubectl).await?;
    let pods = echo::settled(&kubectl, 10).await?;
    let [pod, other] = pods.iter().take(2).collect::<Vec<_>>()[..] else { anyhow::bail!("ten pods") };

    let control = Control::of(&cluster)?;
    let ca = cluster.data_dir().join("pki/ca.crt");
    let ca = ca.to_string_lossy();
    let address = control.address.to_string();
    let ask = async |id: &str, token: &str, ca: &str| -> anyhow::Result<String> {
        let mut command = Command::new(&python);
        command.arg(python::path("xds_ask.py")).args([address.as_str(), id, token, ca]);
        process::run(&mut command).await.map(|text| text.trim().to_owned())
    };
    let bound = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name});
    let of_pod = echo::token(&kubectl, "weft-xds", &bound(pod)).await?;
    let of_account = echo::token(&kubectl, "weft-xds", &Value::Null).await?;
    let of_api = echo::token(&kubectl, "https://kubernetes.default.svc.cluster.local", &Value::Null).await?;
    let (sidecar, stranger) = (format!("sidecar~default~{pod}"), format!("sidecar~default~{other}"));

    // Over TLS and, as this is loopback, without.
    for ca in ["", ca.as_ref()] {
        for (id, token) in [
            ("gateway~~any", control.token.as_str()),
            ("grpc~default~any", of_account.as_str()),
            (&format!("grpc~default~{pod}"), of_pod.as_str()),
        ] {
            let answer = ask(id, token, ca).await?;
            ensure!(answer.starts_with("OK:") && answer.contains("echo.default:80"), "{id}: {answer}");
        }
        for (id, token, code, why) in [
            (sidecar.as_str(), "", "UNAUTHENTICATED", "--xds-token-path"),
            (&sidecar, "made.up.token", "UNAUTHENTICATED", "the token is not valid"),
            (&sidecar, &of_api, "UNAUTHENTICATED", "not for weft-xds"),
            (&stranger, &of_pod, "PERMISSION_DENIED", sidecar.as_str()),
            ("gateway~~any", &of_pod, "PERMISSION_DENIED", sidecar.as_str()),
            (&sidecar, &of_account, "PERMISSION_DENIED", "grpc~default~NAME"),
            ("grpc~kube-system~any", &of_account, "PERMISSION_DENIED", "grpc~default~NAME"),
            ("envoy-1", &control.token, "PERMISSION_DENIED", "gateway~~NODE"),
        ] {
            let answer = ask(id, token, ca).await?;
            ensure!(answer.starts_with(code) && answer.contains(why), "{id}: {answer}");
        }
    }

    // With its pod, a token ends too.
    kubectl.run(&["delete", "pod", pod]).await?;
    let answer = ask(&sidecar, &of_pod, "").await?;
    ensure!(answer.starts_with("UNAUTHENTICATED") && answer.contains("is gone"), "{answer}");
    Ok(())
}
