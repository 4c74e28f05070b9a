#!/usr/bin/env python3
"""Writes src/fields.txt: protobuf tags, JSON names and list semantics of the kinds that Weft serves.

Sources, both generated upstream from the same Go types:
- the crate k8s-pb (protobuf tags, `+patchStrategy`-like markers in the comments),
- the crate k8s-openapi (JSON names, required fields).

Neither tells which scalar Go fields are pointers, for which an explicit zero is a value; POINTERS lists them from the API
reference. Run it after an update of the served Kubernetes version:

    cargo fetch && control/api/tools/fields.py PATH/OF/k8s-pb PATH/OF/k8s-openapi/src/v1_33 > control/api/src/fields.txt
"""
import re
import sys
from pathlib import Path

ROOTS = """
api.core.v1.Binding api.core.v1.ConfigMap api.core.v1.Event api.core.v1.Namespace api.core.v1.Node api.core.v1.Pod
api.core.v1.Secret api.core.v1.Service api.core.v1.ServiceAccount api.events.v1.Event
api.apps.v1.Deployment api.apps.v1.ReplicaSet api.batch.v1.Job api.coordination.v1.Lease api.discovery.v1.EndpointSlice
api.autoscaling.v1.Scale api.policy.v1.Eviction
api.authentication.v1.SelfSubjectReview api.authentication.v1.TokenReview api.authentication.v1.TokenRequest
api.authorization.v1.SelfSubjectAccessReview api.authorization.v1.SelfSubjectRulesReview
api.authorization.v1.SubjectAccessReview api.authorization.v1.LocalSubjectAccessReview
apimachinery.pkg.apis.meta.v1.DeleteOptions
""".split()

META = "apimachinery.pkg.apis.meta.v1."
SPECIAL = {
    META + "Time": "time",
    META + "MicroTime": "microtime",
    META + "FieldsV1": "raw",
    META + "Duration": "duration",
    "apimachinery.pkg.runtime.RawExtension": "raw",
    "apimachinery.pkg.api.resource.Quantity": "quantity",
    "apimachinery.pkg.util.intstr.IntOrString": "intstr",
    "api.authentication.v1.ExtraValue": "strings",
    "api.authorization.v1.ExtraValue": "strings",
}

INLINE = "ProbeHandler VolumeSource EphemeralContainerCommon LocalObjectReference".split()

POINTERS = {
    "ObjectMeta": "deletionGracePeriodSeconds",
    "OwnerReference": "controller blockOwnerDeletion",
    "DeleteOptions": "gracePeriodSeconds orphanDependents propagationPolicy ignoreStoreReadErrorWithClusterBreakingPotential",
    "Preconditions": "uid resourceVersion",
    "PodSpec": "terminationGracePeriodSeconds activeDeadlineSeconds automountServiceAccountToken shareProcessNamespace "
    "priority enableServiceLinks preemptionPolicy runtimeClassName setHostnameAsFQDN hostUsers",
    "Container": "restartPolicy",
    "EphemeralContainerCommon": "restartPolicy",
    "Lifecycle": "stopSignal",
    "Probe": "terminationGracePeriodSeconds",
    "GRPCAction": "service",
    "SecurityContext": "privileged runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem allowPrivilegeEscalation procMount",
    "PodSecurityContext": "runAsUser runAsGroup runAsNonRoot fsGroup fsGroupChangePolicy supplementalGroupsPolicy "
    "seLinuxChangePolicy",
    "SeccompProfile": "localhostProfile",
    "AppArmorProfile": "localhostProfile",
    "WindowsSecurityContextOptions": "gmsaCredentialSpecName gmsaCredentialSpec runAsUserName hostProcess",
    "ConfigMapKeySelector": "optional",
    "SecretKeySelector": "optional",
    "ConfigMapEnvSource": "optional",
    "SecretEnvSource": "optional",
    "ConfigMapProjection": "optional",
    "SecretProjection": "optional",
    "SecretVolumeSource": "optional defaultMode",
    "ConfigMapVolumeSource": "optional defaultMode",
    "KeyToPath": "mode",
    "DownwardAPIVolumeSource": "defaultMode",
    "DownwardAPIVolumeFile": "mode",
    "ProjectedVolumeSource": "defaultMode",
    "ServiceAccountTokenProjection": "expirationSeconds",
    "ClusterTrustBundleProjection": "name signerName optional",
    "HostPathVolumeSource": "type",
    "AzureDiskVolumeSource": "cachingMode fsType readOnly kind",
    "CSIVolumeSource": "readOnly fsType",
    "FCVolumeSource": "lun",
    "ISCSIVolumeSource": "initiatorName",
    "ScaleIOVolumeSource": "",
    "PersistentVolumeClaimSpec": "storageClassName volumeMode volumeAttributesClassName",
    "TypedLocalObjectReference": "apiGroup",
    "TypedObjectReference": "apiGroup namespace",
    "VolumeMount": "mountPropagation recursiveReadOnly",
    "VolumeMountStatus": "recursiveReadOnly",
    "TopologySpreadConstraint": "minDomains nodeAffinityPolicy nodeTaintsPolicy",
    "Toleration": "tolerationSeconds",
    "PodDNSConfigOption": "value",
    "PodResourceClaim": "resourceClaimName resourceClaimTemplateName",
    "PodResourceClaimStatus": "resourceClaimName",
    "ContainerStatus": "started stopSignal",
    "ServiceSpec": "ipFamilyPolicy allocateLoadBalancerNodePorts loadBalancerClass internalTrafficPolicy trafficDistribution",
    "ServicePort": "appProtocol",
    "ClientIPConfig": "timeoutSeconds",
    "PortStatus": "error",
    "LoadBalancerIngress": "ipMode",
    "ServiceAccount": "automountServiceAccountToken",
    "Secret": "immutable",
    "ConfigMap": "immutable",
    "NodeRuntimeHandlerFeatures": "recursiveReadOnlyMounts userNamespaces",
    "NodeFeatures": "supplementalGroupsPolicy",
    "NodeSwapStatus": "capacity",
    "DeploymentSpec": "replicas revisionHistoryLimit progressDeadlineSeconds",
    "DeploymentStatus": "collisionCount terminatingReplicas",
    "ReplicaSetSpec": "replicas",
    "ReplicaSetStatus": "terminatingReplicas",
    "JobSpec": "parallelism completions activeDeadlineSeconds backoffLimit backoffLimitPerIndex maxFailedIndexes "
    "manualSelector ttlSecondsAfterFinished completionMode suspend podReplacementPolicy managedBy",
    "JobStatus": "terminating ready failedIndexes",
    "PodFailurePolicyOnExitCodesRequirement": "containerName",
    "SuccessPolicyRule": "succeededIndexes succeededCount",
    "LeaseSpec": "holderIdentity leaseDurationSeconds leaseTransitions strategy preferredHolder",
    "Endpoint": "hostname nodeName zone",
    "EndpointConditions": "ready serving terminating",
    "EndpointPort": "name protocol port appProtocol",
    "TokenRequestSpec": "expirationSeconds",
}


def normal(name):
    return name.replace("_", "").removeprefix("r#").lower()


def openapi(root):
    """definition -> (normalised name -> JSON name, set of required JSON names)"""
    out = {}
    for path in root.rglob("*.rs"):
        text = path.read_text()
        for match in re.finditer(r'fn schema_name\(\)[^{]*\{\s*"io\.k8s\.([^"]+)"', text):
            body = text[match.end():]
            end = re.search(r"\n}\n", body)
            body = body[: end.start()] if end else body
            names = re.findall(r'^ {16}"([^"]+)": [({]', body, re.M)
            required = re.search(r'^ {12}"required": \[(.*?)\]', body, re.M | re.S)
            required = set(re.findall(r'"([^"]+)"', required.group(1))) if required else set()
            out[match.group(1)] = ({normal(n): n for n in names}, required)
    return out


def protobuf(root):
    """definition -> [(tag, rust name, prost kind, rust type, markers)]"""
    out = {}
    for path in root.rglob("mod.rs"):
        module = list(path.parent.relative_to(root).parts)
        text = path.read_text()
        for match in re.finditer(r"^pub struct (\w+) \{\n(.*?)^\}", text, re.M | re.S):
            fields = []
            for field in re.finditer(
                r"((?: *///[^\n]*\n)*) *#\[prost\(\s*([^]]*?)tag = \"(\d+)\"\s*\)\]\s*pub ([\w#]+):\s*(.*?),\n(?= *(?:///|#\[|\Z|$))",
                match.group(2), re.S,
            ):
                comments, kind, tag, name, rust = field.groups()
                markers = dict(re.findall(r"^ *///\s*\+(\w+)=(\S+)", comments, re.M))
                keys = re.findall(r"^ *///\s*\+listMapKey=(\S+)", comments, re.M)
                if keys:
                    markers["listMapKey"] = ",".join(keys)
                fields.append((int(tag), name, kind, re.sub(r"\s+", "", rust), markers, module))
            out[".".join(module + [match.group(1)])] = fields
    return out


def resolve(rust, module):
    """The type inside options, vectors, boxes and maps, as a definition."""
    inner = re.sub(r"(?<!\w)::(?:core|prost)::(?:\w+::)*[A-Z]\w*", "", rust)
    parts = re.findall(r"(?:super::)*(?:[a-z_0-9]+::)*[A-Z]\w*", inner)[-1].split("::")
    ups = parts.count("super")
    return ".".join(module[: len(module) - ups] + parts[ups:])


def main():
    pb, api = protobuf(Path(sys.argv[1]) / "src"), openapi(Path(sys.argv[2]))
    by_lower = {k.lower(): k for k in api}
    done, queue = {}, [(r, None) for r in ROOTS]
    while queue:
        definition, inherited = queue.pop(0)
        known = api.get(by_lower.get(definition.lower()))
        names, required = known or inherited or ({}, set())
        canonical = by_lower.get(definition.lower(), definition)
        if canonical in done:
            continue
        if not known and not inherited:
            raise SystemExit(f"no JSON names for {definition}")
        lines = []
        pointers = POINTERS.get(canonical.rsplit(".", 1)[1], "").split()
        for tag, rust_name, kind, rust, markers, module in pb[definition]:
            json_name = names.get(normal(rust_name))
            if "btree_map" in kind:
                value = kind.split('"')[1].split(",")[1].strip()
                prefix = "{}"
            else:
                value = kind.split(",")[0].split("=")[0].strip()
                prefix = "[]" if "repeated" in kind else ""
            if value == "message":
                target = resolve(rust, module)
                # Messages of their own in protobuf whose fields JSON shows inline. Every other field without a JSON name
                # is newer than the served version.
                inline = not json_name and (target.lower() not in by_lower or rust_name == "local_object_reference")
                if inline and target.split(".")[-1] not in INLINE:
                    continue
                if inline:
                    json_name = "-"
                if target in SPECIAL:
                    value = SPECIAL[target]
                elif json_name:
                    value = by_lower.get(target.lower(), target)
                    queue.append((target, (names, required) if inline else None))
            if not json_name:
                continue
            flags = ""
            if json_name in pointers:
                flags += " pointer"
                pointers.remove(json_name)
            if json_name in required:
                flags += " required"
            for marker in ("patchStrategy", "patchMergeKey", "listType", "listMapKey"):
                if marker in markers:
                    flags += f" {marker}={markers[marker]}"
            lines.append(f"{tag} {json_name} {prefix}{value}{flags}")
        if pointers:
            print(f"unmatched pointers of {definition}: {pointers}", file=sys.stderr)
        done[canonical] = lines
    print("# Generated by tools/fields.py from k8s-pb 0.9.0 and k8s-openapi 0.29.0 (v1_33).")
    print("# >definition, then per field: tag, JSON name (- = inlined), type, flags.")
    for definition in sorted(done):
        print(f">{definition}")
        print("\n".join(done[definition]))


main()
