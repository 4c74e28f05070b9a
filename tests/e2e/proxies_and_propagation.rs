//! Who has what: `weft proxies` and `kubectl get proxies`; a bad wish is named on its Service and leaves the rest alone;
//! and how long a change takes from its cause to its effect in a proxy.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{ChildStdout, Command},
    time::timeout,
};
use weft_tests::{
    cluster::{self, Cluster, Runtime},
    http,
    kubectl::{self, Kubectl},
    measured, need, process, serial,
    wait::{LONG, wait_for},
};

/// No proxy can follow it, and nothing but a proxy can tell.
const BAD_ROUTES: &str =
    "weft.dev/routes=[{match: {safe_regex: {regex: '('}}, route: {cluster: 'web.default:80'}}]";

/// From cause to effect; the target is far below, the bound leaves room for a busy machine.
const BOUND: Duration = Duration::from_secs(5);

/// Runs `weft proxies` against the cluster of a data directory.
async fn weft_proxies(data_dir: &Path, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(cluster::weft_binary()?);
    command.arg("proxies").args(args).arg("--data-dir").arg(data_dir).env_remove("KUBECONFIG");
    process::run(&mut command).await
}

/// The first words of all lines but the header.
fn names(table: &str) -> Vec<&str> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

/// How many changes a proxy has measured, and how many seconds they took together.
async fn propagation(url: &str) -> anyhow::Result<(f64, f64)> {
    let (status, text) = http::get(url).await?;
    ensure!(status == 200, "{url}: {status}");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.with_context(|| format!("{url} has no {name}"))
    };
    Ok((value("weft_xds_propagation_seconds_count")?, value("weft_xds_propagation_seconds_sum")?))
}

/// Reads what a watch prints until it told `event` of so many proxies whose names begin with `start`.
async fn told_of(
    lines: &mut Lines<BufReader<ChildStdout>>,
    event: &str,
    start: &str,
    number: usize,
) -> anyhow::Result<()> {
    let mut found = BTreeSet::new();
    while found.len() < number {
        let line = lines.next_line().await?.context("the watch ended")?;
        let mut words = line.split_whitespace();
        if words.next() == Some(event)
            && let Some(name) = words.next().filter(|name| name.starts_with(start))
        {
            found.insert(name.to_owned());
        }
    }
    Ok(())
}

async fn condition(kubectl: &Kubectl, status: &str) -> anyhow::Result<Value> {
    wait_for(&format!("the condition of web is {status}"), LONG, || async {
        let service = kubectl.json(&["get", "service", "web"]).await?;
        let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ours = conditions.into_iter().find(|condition| condition["type"] == "weft.dev/Programmed");
        Ok(match ours {
            Some(condition) if condition["status"] == status => Ok(condition),
            other => Err(format!("{other:?}")),
        })
    })
    .await
}

/// Waits until a word is, or is not, in what `weft proxies` prints.
async fn proxies_say(cluster: &Cluster, word: &str, wanted: bool) -> anyhow::Result<String> {
    wait_for(&format!("{word} among the proxies: {wanted}"), LONG, || async {
        let table = weft_proxies(cluster.data_dir(), &[]).await?;
        Ok(if table.contains(word) == wanted { Ok(table) } else { Err(table) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_listed_a_bad_route_is_named_and_changes_are_measured_to_their_effect()
-> anyhow::Result<()> {
    let _serial = serial().await;
    let kubectl = need!("proxies_and_propagation", kubectl::find());
    let cluster = Cluster::up(Runtime::Process, true).await?;
    let kubectl = Kubectl::new(&kubectl, &cluster.kubeconfig());
    let data_dir = cluster.data_dir();
    let url = format!("http://{}/", cluster.web()?);

    // One proxy for each of six pods, and the gateway.
    let table = proxies_say(&cluster, "STALE", false).await?;
    println!("{table}");
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(header.starts_with(&["NAME", "POD", "CLIENT", "CONNECTED"]), "{header:?}");
    ensure!(["CDS", "EDS", "LDS", "RDS"].iter().all(|column| header.contains(column)), "{header:?}");
    ensure!(names(&table).len() == 7, "{table}");
    ensure!(table.matches("weft-proxy/").count() == 7 && !table.contains("REFUSED"), "{table}");
    let shown = kubectl.run(&["get", "proxies"]).await?;
    ensure!(names(&shown) == names(&table), "kubectl shows\n{shown}");
    let sidecar = names(&table).into_iter().find(|name| name.starts_with("sidecar~default~web-"));
    let sidecar = sidecar.context("a sidecar of web")?;
    let details = weft_proxies(data_dir, &[sidecar]).await?;
    ensure!(details.contains("Types:\n") && details.contains("Refused:   <none>"), "{details}");
    let diff = weft_proxies(data_dir, &[sidecar, "--diff"]).await?;
    ensure!(diff.starts_with("The proxy has all "), "{diff}");
    let object: Value = serde_json::from_str(&weft_proxies(data_dir, &[sidecar, "-o", "json"]).await?)?;
    ensure!(object["kind"] == "Proxy" && object["status"]["variant"] == "Delta", "{object}");
    let yaml = weft_proxies(data_dir, &["-o", "yaml"]).await?;
    ensure!(yaml.contains("kind: ProxyList"), "{yaml}");
    let wide = weft_proxies(data_dir, &["-o", "wide"]).await?;
    ensure!(wide.contains("VARIANT") && wide.contains("Delta"), "{wide}");
    ensure!(
        kubectl.json(&["get", "proxy", sidecar]).await?["metadata"]["name"] == sidecar,
        "kubectl get one"
    );
    let unknown = weft_proxies(data_dir, &["nobody"]).await;
    ensure!(unknown.is_err_and(|error| format!("{error:#}").contains("not found")), "an unknown proxy");

    // What only proxies can judge is named by them, on the Service and among the proxies; the last good route stays.
    kubectl.run(&["annotate", "service", "web", BAD_ROUTES]).await?;
    let bad = condition(&kubectl, "False").await?;
    ensure!(bad["reason"] == "RefusedByProxy", "{bad}");
    ensure!(bad["message"].as_str().is_some_and(|text| text.contains("routes[0].match.safe_regex")), "{bad}");
    let table = proxies_say(&cluster, "REFUSED", true).await?;
    ensure!(names(&table).len() == 7, "{table}");
    let diff = weft_proxies(data_dir, &[sidecar, "--diff"]).await?;
    ensure!(diff.contains("web.default:80") && diff.contains("Refused"), "{diff}");
    let (status, body) = http::get(&url).await?;
    ensure!(status == 200 && body.contains("good day from web-"), "{status}: {body}");
    kubectl.run(&["annotate", "service", "web", "weft.dev/routes-"]).await?;
    condition(&kubectl, "True").await?;
    proxies_say(&cluster, "REFUSED", false).await?;

    // From cause to effect, as the gateway measures it; and who comes and goes, as a watch tells it.
    let mut watch = kubectl.spawn(&["get", "proxies", "-w", "--output-watch-events"])?;
    let mut told = BufReader::new(watch.stdout.take().context("a pipe")?).lines();
    let admin = cluster.status("gateway")?;
    let (mut seen, mut sum) = propagation(&admin).await?;
    for (what, replicas, event, number) in
        [("pods become ready", "6", "ADDED", 6), ("pods terminate", "2", "DELETED", 4)]
    {
        kubectl.run(&["scale", "deployment", "web", "--replicas", replicas]).await?;
        kubectl.run(&["rollout", "status", "deployment", "web"]).await?;
        let (count, total) = wait_for(&format!("{what}: it is measured"), LONG, || async {
            let (count, total) = propagation(&admin).await?;
            Ok(if count > seen { Ok((count, total)) } else { Err(format!("still {count}")) })
        })
        .await?;
        let mean = (total - sum) / (count - seen);
        measured!("{what}: {} changes, from cause to effect {:.1} ms on average", count - seen, mean * 1e3);
        ensure!(mean < BOUND.as_secs_f64(), "{what}: {mean} s");
        (seen, sum) = (count, total);
        let watched = timeout(LONG, told_of(&mut told, event, "sidecar~default~web-", number)).await;
        watched.with_context(|| format!("{what}: the watch does not tell of it"))??;
    }
    watch.start_kill()?;
    // Each pod that went was known by every proxy to go before it was told to end.
    let events = kubectl.run(&["get", "events"]).await?;
    ensure!(events.contains("Killing") && !events.contains("StillInRotation"), "{events}");
    // The same as control sees it.
    let (_, metrics) = http::get(&cluster.status("metrics")?).await?;
    for name in ["weft_xds_ack_seconds_count{type=\"eds\"}", "weft_xds_proxies_by_state{state=\"synced\"}"] {
        ensure!(metrics.contains(name), "{name} is not among control's metrics");
    }
    ensure!(metrics.contains("weft_xds_laggards 0"), "nobody lags");
    Ok(())
}
