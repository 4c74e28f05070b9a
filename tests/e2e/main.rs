//! End-to-end tests with the real parts: `weft up` as a process, and kubectl, wrk, Prometheus, Docker and Python as
//! their users have them. One module per item that the cluster or the mesh must show.
//!
//! Timings and counts of failed requests are printed (`cargo test -- --nocapture`, as `tests/run` does) and bounded
//! generously: a test says that it works, the benchmarks say how well.

mod acknowledged_writes;
mod bad_input;
mod control_killed;
mod control_restarts;
mod demo_start;
mod docker_capture;
mod echo;
mod grpc_without_proxy;
mod kubectl_and_python;
mod prometheus_reads;
mod proxies_and_propagation;
mod proxy_tokens;
mod rollout_under_load;
mod scaling_through_both;
