# Haraka's folder of configuration, as the lines of a shell: queue/smtp_forward hands each message to
# the next hop before the client is answered, and stores nothing. One process for each processor.
set -eu
mkdir -p config plugins queue
printf 'listen=127.0.0.1:%s\nnodes=%s\n' "$1" "$3" >config/smtp.ini
echo relay.test >config/me
printf '[main]\nlevel=info\ntimestamps=false\nformat=default\n' >config/log.ini
printf 'host=127.0.0.1\nport=%s\n' "$2" >config/smtp_forward.ini
sed 's/^bytes *=.*/bytes=52428800/' "$4/config/connection.ini" >config/connection.ini
printf 'tls\naccept_all\nqueue/smtp_forward\n' >config/plugins
cp cert.pem config/tls_cert.pem
cp key.pem config/tls_key.pem
: >config/tls.ini
printf 'exports.hook_rcpt = (next) => next(OK);\n' >plugins/accept_all.js
