#!/bin/sh
# Makes the certificates that the tests of tls/ use, with the openssl command. The files are
# committed; run this again only to change them. The keys protect nothing. All are valid from 2024
# to 2054, but for expired.pem (the year 2020).
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

key() { # file curve-or-rsa
    if [ "$2" = rsa ]; then
        openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1"
    else
        openssl genpkey -quiet -algorithm EC -pkeyopt "ec_paramgen_curve:$2" -out "$1"
    fi
}

# sign: file, common name, subjectAltName ("" for none), first day, last day, extensions section,
# issuer ("" for itself)
sign() {
    cat > "$work/$1.cnf" <<CONFIG
[req]
distinguished_name = name
prompt = no
[name]
CN = $2
[ca]
default_ca = authority
[authority]
new_certs_dir = $work
database = $work/index
rand_serial = yes
default_md = sha256
policy = policy
unique_subject = no
[policy]
commonName = supplied
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[own]
basicConstraints = critical, CA:true
subjectKeyIdentifier = hash
${3:+subjectAltName = $3}
[leaf]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
${3:+subjectAltName = $3}
CONFIG
    : > "$work/index"
    openssl req -new -config "$work/$1.cnf" -key "$1.key" -out "$work/$1.csr"
    issuer="-selfsign -keyfile $1.key"
    [ -z "$7" ] || issuer="-cert $7.pem -keyfile $7.key"
    # shellcheck disable=SC2086
    openssl ca -batch -notext -config "$work/$1.cnf" -extensions "$6" $issuer \
        -startdate "$4" -enddate "$5" -in "$work/$1.csr" -out "$1.pem" 2> "$work/log" ||
        { cat "$work/log"; exit 1; }
}

from=20240101000000Z
to=20540101000000Z
for name in authority ecdsa other expired bare selfsigned ownroot chained stranger; do
    key "$name.key" P-256
done
key rsa.key rsa
key p384.key P-384
sign authority "ringpost test authority" "" "$from" "$to" root ""
names="DNS:mail.example.com, DNS:MX.example.com, DNS:*.wild.example.com, IP:127.0.0.1, IP:::1"
sign ecdsa mail.example.com "$names" "$from" "$to" leaf authority
sign rsa mail.example.com "DNS:mail.example.com, DNS:rsa-only.example.com" \
    "$from" "$to" leaf authority
sign other other.example.net "DNS:other.example.net, DNS:deep.wild.example.com" \
    "$from" "$to" leaf authority
sign p384 p384.example.org "DNS:p384.example.org" "$from" "$to" leaf authority
sign expired mail.example.com "DNS:mail.example.com" 20200101000000Z 20210101000000Z leaf authority
sign bare mail.example.com "" "$from" "$to" leaf authority
sign selfsigned mail.example.com "DNS:mail.example.com" "$from" "$to" leaf ""
sign ownroot mail.example.com "DNS:mail.example.com" "$from" "$to" own ""
sign stranger "another authority" "" "$from" "$to" root ""
sign chained mail.example.com "DNS:mail.example.com" "$from" "$to" leaf stranger
cat stranger.pem >> chained.pem
openssl pkey -in ecdsa.key -aes128 -passout pass:secret -out encrypted.key
rm authority.key stranger.key
chmod 644 ./*.key ./*.pem
