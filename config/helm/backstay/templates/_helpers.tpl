{{- define "backstay.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "backstay.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* A plan over all namespaces does not replicate Backstay itself: backstay.dev/exclude. */}}
{{- define "backstay.labels" -}}
{{ include "backstay.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
backstay.dev/exclude: "true"
{{- end }}

{{- define "backstay.sends" -}}
{{- if has .Values.role (list "sender" "both") }}true{{ end }}
{{- end }}

{{- define "backstay.receives" -}}
{{- if has .Values.role (list "receiver" "both") }}true{{ end }}
{{- end }}

{{- /* (dict "kinds" LIST "verbs" LIST): rules for the kinds that plans bring. */}}
{{- define "backstay.kinds" -}}
{{- $verbs := .verbs }}
{{- range .kinds | default (list (dict "apiGroups" (list "*") "resources" (list "*"))) }}
- apiGroups: {{ toJson .apiGroups }}
  resources: {{ toJson .resources }}
  verbs: {{ toJson $verbs }}
{{- end }}
{{- end }}

{{- /* (dict "context" . "role" NAME): binds a cluster role to the daemon. */}}
{{- define "backstay.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .role }}
  labels: {{- include "backstay.labels" .context | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .role }}
subjects:
  - kind: ServiceAccount
    name: {{ include "backstay.name" .context }}
    namespace: {{ .context.Release.Namespace }}
{{- end }}
