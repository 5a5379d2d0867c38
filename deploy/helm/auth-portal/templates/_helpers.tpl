{{- define "portal.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "portal.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "portal.labels" -}}
{{ include "portal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "portal.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{- define "portal.host" -}}
{{- (urlParse .Values.publicUrl).host | splitList ":" | first }}
{{- end }}

{{/* What every pod has. No variables of services: a service named "portal" would set some that begin with PORTAL_. */}}
{{- define "portal.pod" -}}
enableServiceLinks: false
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: secrets
    secret: {secretName: {{ .Values.secretName | quote }}, defaultMode: 0440}
  - name: instance
    emptyDir: {sizeLimit: 64Mi}
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
{{- end }}

{{/* What every container has. */}}
{{- define "portal.container" -}}
image: {{ include "portal.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: secrets, mountPath: /run/secrets/auth-portal, readOnly: true}
  - {name: instance, mountPath: /var/lib/auth-portal}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{/* The settings of every container, as entries of env. */}}
{{- define "portal.settings" -}}
- {name: PORTAL_PUBLIC_URL, value: {{ .Values.publicUrl | quote }}}
- {name: PORTAL_TRUSTED_PROXIES, value: {{ .Values.trustedProxies | quote }}}
- {name: PORTAL_DISPATCH, value: "off"}
- {name: PORTAL_DATABASE_URL_FILE, value: /run/secrets/auth-portal/database-url}
- {name: PORTAL_SECRET_KEYS_FILE, value: /run/secrets/auth-portal/secret-keys}
{{- if .Values.serviceMonitor.enabled }}
- {name: PORTAL_METRICS_TOKEN_FILE, value: /run/secrets/auth-portal/metrics-token}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{/* Where the pods of a Deployment go: apart from each other, and where its values say. */}}
{{- define "portal.places" -}}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "portal.selector" $.root | nindent 8 }}
        app.kubernetes.io/component: {{ $.component }}
  {{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
