{{- define "rowcast.name" -}}
{{- $name := ternary .Release.Name (printf "%s-rowcast" .Release.Name) (contains "rowcast" .Release.Name) -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "rowcast.edgeName" -}}
{{ include "rowcast.name" . }}-edge
{{- end }}

{{- define "rowcast.selector" -}}
app.kubernetes.io/name: rowcast
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rowcast.edgeSelector" -}}
app.kubernetes.io/name: rowcast-edge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rowcast.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "rowcast.labels" -}}
{{ include "rowcast.selector" . }}
{{ include "rowcast.commonLabels" . }}
{{- end }}

{{- define "rowcast.edgeLabels" -}}
{{ include "rowcast.edgeSelector" . }}
{{ include "rowcast.commonLabels" . }}
{{- end }}

{{- /* Whether the service itself is here: not with edges of an origin that is elsewhere. */}}
{{- define "rowcast.hasService" -}}
{{- if not (and .Values.edge.enabled .Values.edge.upstream) }}true{{ end -}}
{{- end }}

{{- /* What clients reach: the edges, where there are any. */}}
{{- define "rowcast.front" -}}
{{- if .Values.edge.enabled }}{{ include "rowcast.edgeName" . }}{{ else }}{{ include "rowcast.name" . }}{{ end -}}
{{- end }}

{{- /* The names that clients use, and those that the cluster has for the Services. The origin sees those that clients have used at an edge. */}}
{{- define "rowcast.hosts" -}}
{{- $namespace := .Release.Namespace -}}
{{- $own := list -}}
{{- range $name := list (include "rowcast.name" .) (include "rowcast.edgeName" .) -}}
{{- if or $.Values.edge.enabled (ne $name (include "rowcast.edgeName" $)) -}}
{{- $own = concat $own (list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.cluster.local" $name $namespace)) -}}
{{- end -}}
{{- end -}}
{{- $public := .Values.allowedHosts -}}
{{- if .Values.ingress.enabled }}{{ $public = append $public .Values.ingress.host }}{{ end -}}
{{- concat $public $own | uniq | join "," -}}
{{- end }}

{{- /* A path of the config directory as a key of a ConfigMap, which has no slashes. */}}
{{- define "rowcast.configKey" -}}
{{- . | replace "/" "__" -}}
{{- end }}
