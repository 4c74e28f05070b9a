"""Applies a manifest with the official Python client, and does with it what its users do: list, watch, patch, log, delete.

usage: apply.py KUBECONFIG MANIFEST
"""

import sys
import time

import yaml
from kubernetes import client, config, utils, watch
from kubernetes.client.rest import ApiException

kubeconfig, manifest = sys.argv[1:]
config.load_kube_config(kubeconfig)
namespace = "from-python"
core, apps = client.CoreV1Api(), client.AppsV1Api()

core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=namespace)))
created = utils.create_from_yaml(client.ApiClient(), manifest, namespace=namespace)
assert len(created) == 2, created

# Created again it is a conflict, told as Kubernetes tells it.
try:
    utils.create_from_yaml(client.ApiClient(), manifest, namespace=namespace)
    raise AssertionError("the second creation went through")
except utils.FailToCreateError as error:
    reasons = {exception.reason for exception in error.api_exceptions}
    assert reasons == {"Conflict"}, reasons


def wait_available(replicas):
    """Follows the Deployment by a watch until `replicas` are available."""
    for event in watch.Watch().stream(
        apps.list_namespaced_deployment, namespace, field_selector="metadata.name=echo", timeout_seconds=60
    ):
        status = event["object"].status
        if (status.available_replicas or 0) == replicas and (status.replicas or 0) == replicas:
            return
    raise AssertionError(f"no {replicas} available replicas within 60 s")


wait_available(2)
pods = core.list_namespaced_pod(namespace, label_selector="app=echo").items
assert len(pods) == 2 and all(pod.status.phase == "Running" for pod in pods), pods
assert "listens on" in core.read_namespaced_pod_log(pods[0].metadata.name, namespace)

apps.patch_namespaced_deployment_scale("echo", namespace, {"spec": {"replicas": 3}})
wait_available(3)

# Optimistic concurrency: a stale update must not win.
deployment = apps.read_namespaced_deployment("echo", namespace)
apps.patch_namespaced_deployment("echo", namespace, {"metadata": {"labels": {"touched": "yes"}}})
try:
    apps.replace_namespaced_deployment("echo", namespace, deployment)
    raise AssertionError("a stale update went through")
except ApiException as error:
    assert error.status == 409, error

dynamic = yaml.safe_load_all(open(manifest, encoding="utf-8"))
assert {document["kind"] for document in dynamic} == {"Service", "Deployment"}

core.delete_namespace(namespace)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        core.read_namespace(namespace)
    except ApiException as error:
        assert error.status == 404, error
        break
    time.sleep(0.2)
else:
    raise AssertionError("the namespace does not go away")
assert not core.list_namespaced_pod(namespace).items
print("applied, scaled, watched, logged and deleted with the Python client", client.__package__)
