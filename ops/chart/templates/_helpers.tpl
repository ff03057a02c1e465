{{- define "rowcast.name" -}}
{{- $name := ternary .Release.Name (printf "%s-rowcast" .Release.Name) (contains "rowcast" .Release.Name) -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "rowcast.selector" -}}
app.kubernetes.io/name: rowcast
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rowcast.labels" -}}
{{ include "rowcast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* The names that clients use, and those that the cluster has for the Service. */}}
{{- define "rowcast.hosts" -}}
{{- $name := include "rowcast.name" . -}}
{{- $namespace := .Release.Namespace -}}
{{- $own := list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.cluster.local" $name $namespace) -}}
{{- $public := .Values.allowedHosts -}}
{{- if .Values.ingress.enabled }}{{ $public = append $public .Values.ingress.host }}{{ end -}}
{{- concat $public $own | uniq | join "," -}}
{{- end }}

{{- /* A path of the config directory as a key of a ConfigMap, which has no slashes. */}}
{{- define "rowcast.configKey" -}}
{{- . | replace "/" "__" -}}
{{- end }}
