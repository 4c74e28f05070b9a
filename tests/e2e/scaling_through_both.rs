//! xDS, item 3: a Deployment of 10 goes 2 → 20 → 2 again and again, and neither Envoy nor weft-proxy loses a request.
//!
//! Three gateways are clients of the cluster's own control service, each under steady load: Envoy incremental, Envoy with
//! the state of the world, and weft-proxy. `WEFT_SOAK_SECONDS` says for how long: 35 as a smoke test, 300 by hand.

use std::time::{Duration, Instant};

use anyhow::ensure;
use weft_tests::{
    cluster::{Cluster, Runtime},
    http::Load,
    kubectl, measured, need,
    proxy::Proxy,
    serial,
    wait::{self, LONG, wait_for},
    xds_client::{Control, Envoy, Protocol, find_envoy, gateway, own_address},
};

use crate::echo;

/// Each proxy has as many callers, which ask at this pace.
const CALLERS: usize = 8;
const PERIOD: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn envoy_and_weft_proxy_lose_nothing_while_a_deployment_scales() -> anyhow::Result<()> {
    let _serial = serial().await;
    let test = "scaling_through_both";
    let envoy = need!(test, find_envoy());
    need!(test, kubectl::find());
    let length = wait::soak(35)?;
    let cluster = Cluster::up(Runtime::Process, false).await?;
    let kubectl = cluster.kubectl()?;
    echo::deploy(&kubectl).await?;

    let control = Control::of(&cluster)?;
    let (delta, sotw, ours) = (own_address(0), own_address(1), own_address(2));
    let envoy_delta = Envoy::start(&envoy, &gateway("envoy-delta", delta, &control, Protocol::Delta)).await?;
    let envoy_sotw = Envoy::start(&envoy, &gateway("envoy-sotw", sotw, &control, Protocol::Sotw)).await?;
    let proxy = Proxy::start(gateway("weft-proxy", ours, &control, Protocol::Delta)).await?;
    let mut loads = Vec::new();
    for (name, address) in [("Envoy, delta", delta), ("Envoy, SotW", sotw), ("weft-proxy", ours)] {
        loads.push((name, Load::start(&echo::at(&kubectl, address).await?, CALLERS, PERIOD)));
    }

    let started = Instant::now();
    let (mut cycles, mut slowest) = (0, Duration::ZERO);
    while started.elapsed() < length {
        for replicas in [2, 20] {
            echo::scale(&kubectl, replicas).await?;
            let there = echo::settled(&kubectl, replicas).await?;
            let available = Instant::now();
            for (name, load) in &loads {
                load.forget_pods();
                wait_for(&format!("{name} calls all of {replicas} replicas"), LONG, || async {
                    let seen = load.pods();
                    ensure!(
                        seen.is_subset(&there),
                        "{name} calls pods that are gone: {seen:?}, not {there:?}"
                    );
                    Ok(if seen == there { Ok(()) } else { Err(format!("{} so far", seen.len())) })
                })
                .await?;
            }
            slowest = slowest.max(available.elapsed());
        }
        cycles += 1;
    }

    let tallies: Vec<_> = loads.iter().map(|(name, load)| (*name, load.tally())).collect();
    let seconds = started.elapsed().as_secs();
    for (name, tally) in &tallies {
        measured!("{cycles} times 2 to 20 replicas and back in {seconds} s, {name}: {tally}");
    }
    measured!("after a scaling all proxies called all replicas within {} ms", slowest.as_millis());
    for (name, tally) in &tallies {
        ensure!(tally.requests() > 0 && tally.failed() == 0, "{name}: {tally}");
    }
    drop(loads);
    envoy_delta.finish()?;
    envoy_sotw.finish()?;
    proxy.finish().await
}
