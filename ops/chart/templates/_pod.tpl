{{- /* The pods of the service, or of its edges: a dict of the root and of which ones. */}}
{{- define "rowcast.pod" -}}
{{- with .root -}}
metadata:
  labels: {{- include (ternary "rowcast.edgeLabels" "rowcast.labels" $.edge) . | nindent 4 }}
  annotations:
    rowcast/config: {{ .Values.config | toJson | sha256sum }} # another config makes new pods
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- with .Values.stopping }}
  terminationGracePeriodSeconds: {{ add .shutdownDelay .drain .shutdownGrace 10 }} # with 10 s to spare
  {{- end }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: rowcast
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - {{ ternary "edge" "serve" $.edge }}
        - --host=0.0.0.0
        - --port={{ .Values.ports.http }}
        - --workers={{ .Values.workers }}
        {{- if and .Values.migrate (not $.edge) }}
        - --migrate
        {{- end }}
      env:
        {{- if $.edge }}
        - {name: ROWCAST_UPSTREAM, value: {{ .Values.edge.upstream | default (printf "http://%s:%v" (include "rowcast.name" .) .Values.service.port) | quote }}}
        {{- else }}
        - name: DATABASE_URL
          valueFrom:
            secretKeyRef:
              name: {{ required "database.secret must name a Secret with the database's URL" .Values.database.secret }}
              key: {{ .Values.database.urlKey }}
        {{- with .Values.database.directUrlKey }}
        - name: ROWCAST_DATABASE_DIRECT_URL
          valueFrom:
            secretKeyRef: {name: {{ $.root.Values.database.secret }}, key: {{ . }}}
        {{- end }}
        {{- with .Values.database.replicasKey }}
        - name: ROWCAST_DATABASE_REPLICAS
          valueFrom:
            secretKeyRef: {name: {{ $.root.Values.database.secret }}, key: {{ . }}}
        {{- end }}
        {{- end }}
        {{- if .Values.edge.enabled }}{{ $_ := required "edgeKey.secret must name a Secret with the key of edges and origin" .Values.edgeKey.secret }}{{ end }}
        {{- with .Values.edgeKey.secret }}
        - name: ROWCAST_STREAM_EDGE_KEY
          valueFrom:
            secretKeyRef: {name: {{ . }}, key: {{ $.root.Values.edgeKey.key }}}
        {{- end }}
        {{- with .Values.relay.secret }}
        - name: ROWCAST_STREAM_RELAY
          valueFrom:
            secretKeyRef: {name: {{ . }}, key: {{ $.root.Values.relay.urlKey }}}
        {{- end }}
        - {name: ROWCAST_DATA, value: /tmp/rowcast} # where `rowcast reload` finds the service
        {{- if .Values.config }}
        - {name: ROWCAST_CONFIG, value: /app/config}
        {{- end }}
        - {name: ROWCAST_SERVER_ADMIN, value: "0.0.0.0:{{ .Values.ports.admin }}"}
        - {name: ROWCAST_SERVER_ALLOWED_HOSTS, value: {{ include "rowcast.hosts" . | quote }}}
        {{- with add .Values.trustedProxies (ternary 1 0 (and .Values.edge.enabled (not $.edge))) }}{{- /* the origin trusts its edges */}}
        - {name: ROWCAST_SERVER_TRUSTED_PROXIES, value: {{ . | quote }}}
        {{- end }}
        {{- with .Values.rootPath }}
        - {name: ROWCAST_SERVER_ROOT_PATH, value: {{ . | quote }}}
        {{- end }}
        {{- with .Values.stopping }}
        - {name: ROWCAST_SERVER_SHUTDOWN_DELAY, value: {{ .shutdownDelay }}s}
        - {name: ROWCAST_STREAM_DRAIN, value: {{ .drain }}s}
        - {name: ROWCAST_SERVER_SHUTDOWN_GRACE, value: {{ .shutdownGrace }}s}
        {{- end }}
        {{- range $name, $value := .Values.env }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      ports:
        - {name: http, containerPort: {{ .Values.ports.http }}}
        - {name: admin, containerPort: {{ .Values.ports.admin }}}
      startupProbe: # the process answers soon, also while it migrates or waits for the database
        httpGet: {path: /health/live, port: admin}
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /health/live, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /health/ready, port: admin}
        periodSeconds: 2
        timeoutSeconds: 4
        failureThreshold: 2
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if .Values.config }}
        - {name: config, mountPath: /app/config, readOnly: true}
        {{- end }}
        {{- if .Values.secrets }}
        - {name: secrets, mountPath: /run/secrets, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if .Values.config }}
    - name: config
      configMap:
        name: {{ include "rowcast.name" . }}
        items:
          {{- range $path, $_ := .Values.config }}
          - {key: {{ include "rowcast.configKey" $path | quote }}, path: {{ $path | quote }}}
          {{- end }}
    {{- end }}
    {{- with .Values.secrets }}
    - name: secrets
      projected:
        sources:
          {{- range . }}
          - secret: {name: {{ . }}}
          {{- end }}
    {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include (ternary "rowcast.edgeSelector" "rowcast.selector" $.edge) . | nindent 10 }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
