{{/* The chart's name, or what the user calls it. */}}
{{- define "binder-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of every object: the release's, with the chart's unless it is in it already. */}}
{{- define "binder-operator.fullname" -}}
{{- $name := include "binder-operator.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "binder-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "binder-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "binder-operator.labels" -}}
{{ include "binder-operator.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: binder
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "binder-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "binder-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: name the account to use, or set serviceAccount.create to true" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The name of what belongs to no namespace: with the release's, since another release may have the same name elsewhere. */}}
{{- define "binder-operator.policy" -}}
{{- printf "%s-%s-actions" .Release.Namespace (include "binder-operator.fullname" .) | trunc 120 | trimSuffix "-" -}}
{{- end -}}

{{/* The image with its tag or digest. */}}
{{- define "binder-operator.image" -}}
{{- $repository := required "image.repository: there is no public image yet; build one from this repository and name it here" .Values.image.repository -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- if hasPrefix "sha256:" $tag -}}
{{- printf "%s@%s" $repository $tag -}}
{{- else -}}
{{- printf "%s:%s" $repository $tag -}}
{{- end -}}
{{- end -}}

{{/*
What the operator may do, each line for a call that it makes. A test compares this with a list of its own, so that a
wider right is a decision and not an accident.
*/}}
{{- define "binder-operator.rules" -}}
# Fleets are their owners': read, and told how they are.
- apiGroups: [fleet.binder-project.org]
  resources: [binderfleets]
  verbs: [get, list, watch]
- apiGroups: [fleet.binder-project.org]
  resources: [binderfleets/status]
  verbs: [patch]
# A rendered host's ownerReference blocks the deletion of its fleet; where the API server runs the admission plugin
# OwnerReferencesPermissionEnforcement, setting that takes this right. The operator itself sets no finalizers.
- apiGroups: [fleet.binder-project.org]
  resources: [binderfleets/finalizers]
  verbs: [update]
# Hosts are rendered by server-side apply (create and patch), and deleted when their fleet no longer lists them.
- apiGroups: [fleet.binder-project.org]
  resources: [binderhosts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [fleet.binder-project.org]
  resources: [binderhosts/status]
  verbs: [patch]
# Actions: created before anything is touched, followed by a watch, listed before a step, deleted when they are old. Never
# changed but in status.
- apiGroups: [fleet.binder-project.org]
  resources: [binderactions]
  verbs: [list, watch, create, delete]
- apiGroups: [fleet.binder-project.org]
  resources: [binderactions/status]
  verbs: [patch]
# Login keys and API keys, by name only: no Secret is ever found by looking around.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- with .Values.apiKeySecrets }}
# The API key that the servers' logs agree on, where a fleet allows it (access.mayWriteApiKey): by server-side apply, which
# is create and patch, to the Secrets of these names only.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: {{ toJson . }}
  verbs: [create, patch]
{{- end }}
# A repeated event is a patch of the first.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
