/* The configuration is the first thing a person meets: these rows hold its messages to the letter
 * and to the column. */
#include <criterion/criterion.h>

#include "tests/unit/config_text.h"

static struct config_errors errors;

struct refusal {
    const char *name;
    const char *text;
    const char *want; /* first line of the only message, behind "t.yaml:" */
};

static const struct refusal top_refusals[] = {
    { "unknown key with a near one", "hostname: a.example\nwrokers: auto\n",
      "2:1: error: unknown key 'wrokers', did you mean 'workers'?" },
    { "unknown key", "colour: red\n",
      "1:1: error: unknown key 'colour', expected hostname, workers, user, tls, listen, accept, "
      "next_hop, "
      "route, delivery, spool, stats, log, limits, timeouts, sandbox or scheduling" },
    { "duplicate key", "workers: 1\nhostname: a.example\nworkers: 2\n",
      "3:1: error: duplicate key 'workers', the first one is on line 1" },
    { "column counts characters", "limits: { \xc3\xa9: 1 }\n",
      "1:11: error: limits: unknown key '\xc3\xa9', expected message_size, connections, "
      "connections_per_client, recipients, command_line, text_line, transactions, errors, "
      "received_headers, tls_handshakes or receive_memory" },
    { "hostname list", "hostname: [ a.example ]\n",
      "1:11: error: hostname: a list, expected one value" },
    { "hostname map", "hostname: { a: b }\n", "1:11: error: hostname: a map, expected one value" },
    { "hostname nothing", "hostname:\n", "1:1: error: hostname: no value, expected one" },
    { "hostname empty", "hostname: ''\n", "1:11: error: hostname: no value, expected one" },
    { "hostname address", "hostname: 192.0.2.1\n",
      "1:11: error: hostname: '192.0.2.1' is not a host name, expected one such as "
      "edge.example.com" },
    { "hostname space", "hostname: edge example\n",
      "1:11: error: hostname: 'edge example' is not a host name, expected one such as "
      "edge.example.com" },
    { "hostname dot at its end", "hostname: edge.example.com.\n",
      "1:11: error: hostname: 'edge.example.com.' ends with a dot, expected a host name such as "
      "edge.example.com" },
    { "hostname empty label", "hostname: edge..com\n",
      "1:11: error: hostname: 'edge..com' is not a host name, expected one such as "
      "edge.example.com" },
    { "hostname hyphen", "hostname: -edge.com\n",
      "1:11: error: hostname: '-edge.com' is not a host name, expected one such as "
      "edge.example.com" },
    { "hostname control character", "hostname: \"a\\0b\"\n",
      "1:11: error: hostname: control character 0x00 in a value, expected one line of text" },
    { "workers zero", "workers: 0\n",
      "1:10: error: workers: '0' is unknown, expected auto or 1 to 256" },
    { "workers too many", "workers: 257\n",
      "1:10: error: workers: '257' is unknown, expected auto or 1 to 256" },
    { "workers word", "workers: Auto\n",
      "1:10: error: workers: 'Auto' is unknown, expected auto or 1 to 256" },
    { "user with a group", "user: mail:mail\n",
      "1:7: error: user: 'mail:mail' is no user, expected the name of one of this system" },
    { "user like an option", "user: -x\n",
      "1:7: error: user: '-x' is no user, expected the name of one of this system" },
    { "scheduling word", "scheduling: fifo\n",
      "1:13: error: scheduling: 'fifo' is unknown, expected other or batch" },
    { "sandbox word", "sandbox: yes\n",
      "1:10: error: sandbox: 'yes' is unknown, expected off, log or on" },
    { "section is a value", "limits: 5\n",
      "1:9: error: limits: '5' is a value, expected a map of keys and values" },
    { "section is a list", "limits: [ 5 ]\n",
      "1:9: error: limits: a list, expected a map of keys and values" },
    { "delivery mode", "delivery: { mode: store }\n",
      "1:19: error: delivery.mode: 'store' is unknown, expected cut-through or spool" },
    { "delivery on_defer", "delivery: { on_defer: keep }\n",
      "1:23: error: delivery.on_defer: 'keep' is unknown, expected pass or spool" },
    { "log target", "log: { target: stdout }\n",
      "1:16: error: log.target: 'stdout' is unknown, expected stderr, syslog or a file such as "
      "./ringpost.log" },
    { "log target list", "log:\n  target: [ stderr, syslog ]\n",
      "2:11: error: log.target: a list, expected one value" },
    { "log format", "log: { format: xml }\n",
      "1:16: error: log.format: 'xml' is unknown, expected text or json" },
    { "spool retry unit", "spool: { directory: spool, retry: [ 1min, 5 ] }\n",
      "1:43: error: spool.retry: '5' has no unit, expected a duration such as 100ms, 20s, 5min, 1h "
      "or 5d" },
    { "spool retry too small", "spool: { directory: spool, retry: 10ms }\n",
      "1:35: error: spool.retry: 10ms is too small, expected 1s to what spool.expire is" },
    { "spool retry beyond expire", "spool: { directory: spool, retry: 2h, expire: 1h }\n",
      "1:35: error: spool.retry: 2h is too large, expected 1s to what spool.expire is" },
    { "spool retry empty", "spool: { directory: spool, retry: [ ] }\n",
      "1:35: error: spool.retry: an empty list, expected at least one value" },
};

static const struct refusal option_refusals[] = {
    { "size unit", "limits: { message_size: 50xb }\n",
      "1:25: error: limits.message_size: '50xb' has an unknown unit, expected kb, mb or gb "
      "(or kib, "
      "mib, gib), with no space before it" },
    { "size space", "limits: { message_size: 50 mb }\n",
      "1:25: error: limits.message_size: '50 mb' has an unknown unit, expected kb, mb or gb "
      "(or kib, "
      "mib, gib), with no space before it" },
    { "size fraction", "limits: { message_size: 1.5gb }\n",
      "1:25: error: limits.message_size: '1.5gb' has a fraction, expected a whole number "
      "and a unit "
      "such as 512kb" },
    { "size word", "limits: { message_size: big }\n",
      "1:25: error: limits.message_size: 'big' is not a size, expected a number and a unit such as "
      "50mb, 64kib or 998" },
    { "size negative", "limits: { message_size: -1 }\n",
      "1:25: error: limits.message_size: '-1' is not a size, expected a number and a unit such as "
      "50mb, 64kib or 998" },
    { "size too small", "limits: { message_size: 1k }\n",
      "1:25: error: limits.message_size: 1k is too small, expected 64kb to 2gb" },
    { "size too large", "limits: { message_size: 3gb }\n",
      "1:25: error: limits.message_size: 3gb is too large, expected 64kb to 2gb" },
    { "size beyond 64 bits", "limits: { message_size: 99999999999999999999999 }\n",
      "1:25: error: limits.message_size: 99999999999999999999999 is too large, expected 64kb to "
      "2gb" },
    { "size beyond 64 bits by its unit", "limits: { message_size: 17179869184gb }\n",
      "1:25: error: limits.message_size: 17179869184gb is too large, expected 64kb to 2gb" },
    { "size list", "limits: { message_size: [ 50mb ] }\n",
      "1:25: error: limits.message_size: a list, expected one value" },
    { "command line above its ceiling", "limits: { command_line: 4kb }\n",
      "1:25: error: limits.command_line: 4kb is too large, expected 512 to 2kb" },
    { "count too small", "limits: { errors: 0 }\n",
      "1:19: error: limits.errors: 0 is too small, expected 1 to 1000" },
    { "count too large", "limits: { recipients: 50001 }\n",
      "1:23: error: limits.recipients: 50001 is too large, expected 100 to 50000" },
    { "count with unit", "limits: { errors: 5k }\n",
      "1:19: error: limits.errors: '5k' is not a whole number, expected digits only" },
    { "limits key", "limits: { mesage_size: 1mb }\n",
      "1:11: error: limits: unknown key 'mesage_size', did you mean 'message_size'?" },
    { "duration without unit", "timeouts: { command: 300 }\n",
      "1:22: error: timeouts.command: '300' has no unit, expected a duration such as 100ms, 20s, "
      "5min, 1h or 5d" },
    { "duration unit", "timeouts: { command: 5m }\n",
      "1:22: error: timeouts.command: '5m' has an unknown unit, expected ms, s, min, h, d "
      "or w, with "
      "no space before it" },
    { "duration fraction", "timeouts: { command: 0.5h }\n",
      "1:22: error: timeouts.command: '0.5h' has a fraction, expected a whole number and a "
      "unit such "
      "as 1500ms" },
    { "duration word", "timeouts: { command: forever }\n",
      "1:22: error: timeouts.command: 'forever' is not a duration, expected a number and a "
      "unit such "
      "as 100ms, 20s, 5min or 1h" },
    { "duration too small", "timeouts: { command: 1ms }\n",
      "1:22: error: timeouts.command: 1ms is too small, expected 10ms to 1d" },
    { "duration too large", "timeouts: { command: 1w }\n",
      "1:22: error: timeouts.command: 1w is too large, expected 10ms to 1d" },
    { "retry above its maximum", "timeouts: { server_retry: 5min }\n",
      "1:27: error: timeouts.server_retry is longer than timeouts.server_retry_max" },
    { "retry maximum below its start", "timeouts: { server_retry_max: 1s }\n",
      "1:31: error: timeouts.server_retry is longer than timeouts.server_retry_max" },
    { "buffer above memory", "delivery: { buffer: 16mb }\nlimits: { receive_memory: 4mb }\n",
      "1:21: error: delivery.buffer is larger than limits.receive_memory, expected room for one "
      "message at least" },
    { "choice", "delivery: { recipient_check: nexthop }\n",
      "1:30: error: delivery.recipient_check: 'nexthop' is unknown, expected none or next_hop; did "
      "you mean 'next_hop'?" },
    { "bool is a word of ours", "tls: { tickets: yes }\n",
      "1:17: error: tls.tickets: 'yes' is unknown, expected true or false" },
};

static const struct refusal network_refusals[] = {
    { "listen empty", "listen:\n", "1:1: error: listen: empty, expected at least one listener" },
    { "listen without names", "listen: [ \"127.0.0.1:25\" ]\n",
      "1:9: error: listen: a list, expected a map of keys and values" },
    { "listener name", "listen:\n  \"smtp in\": { address: \"127.0.0.1:25\" }\n",
      "2:3: error: listen: 'smtp in' is no name for a listener, expected up to 64 letters, digits, "
      "'-' and '_'" },
    { "listener without address", "listen:\n  smtp: { tls: none }\n",
      "2:9: error: listen.smtp: 'address' is missing, expected one such as \"127.0.0.1:25\", or a "
      "list of them" },
    { "listener nothing", "listen:\n  smtp:\n",
      "2:3: error: listen.smtp: 'address' is missing, expected one such as \"127.0.0.1:25\", or a "
      "list of them" },
    { "listener twice", "listen:\n  a: { address: \"127.0.0.1:25\" }\n"
      "  a: { address: \"127.0.0.1:26\" }\n",
      "3:3: error: listen: duplicate key 'a', the first one is on line 2" },
    { "address twice", "listen:\n  a: { address: \"127.0.0.1:25\" }\n"
      "  b: { address: [ \"127.0.0.1:26\", \"127.0.0.1:25\" ] }\n",
      "3:35: error: listen.b.address: '127.0.0.1:25' is an address of listen.a already, expected "
      "another one" },
    { "address without port", "listen: { smtp: { address: 127.0.0.1 } }\n",
      "1:28: error: listen.smtp.address: '127.0.0.1' has no port, expected one such as "
      "127.0.0.1:25 "
      "or [::1]:25" },
    { "address port alone", "listen: { smtp: { address: \":25\" } }\n",
      "1:28: error: listen.smtp.address: ':25' names no address, expected 0.0.0.0:PORT for every "
      "IPv4 address or [::]:PORT for every IPv6 address" },
    { "address name", "listen: { smtp: { address: localhost:25 } }\n",
      "1:28: error: listen.smtp.address: 'localhost:25' is not an address and port, expected one "
      "such as 127.0.0.1:25 or [::1]:25" },
    { "address IPv6 without brackets", "listen: { smtp: { address: \"::1:25\" } }\n",
      "1:28: error: listen.smtp.address: '::1:25' has more than one colon, expected an IPv6 "
      "address "
      "in brackets: [::1]:25" },
    { "address bracket", "listen: { smtp: { address: \"[::1:25\" } }\n",
      "1:28: error: listen.smtp.address: '[::1:25' has no closing bracket, expected an "
      "address such "
      "as [::1]:25" },
    { "address behind bracket", "listen: { smtp: { address: \"[::1]25\" } }\n",
      "1:28: error: listen.smtp.address: '[::1]25' has text behind its bracket, expected an "
      "address "
      "such as [::1]:25" },
    { "address bracketed IPv4", "listen: { smtp: { address: \"[127.0.0.1]:25\" } }\n",
      "1:28: error: listen.smtp.address: '[127.0.0.1]:25' is not an address and port, expected one "
      "such as 127.0.0.1:25 or [::1]:25" },
    { "address port zero", "listen: { smtp: { address: 127.0.0.1:0 } }\n",
      "1:28: error: listen.smtp.address: '127.0.0.1:0' has a port that is none, expected 1 to "
      "65535" },
    { "address port large", "listen: { smtp: { address: 127.0.0.1:65536 } }\n",
      "1:28: error: listen.smtp.address: '127.0.0.1:65536' has a port that is none, expected 1 to "
      "65535" },
    { "address no port behind colon", "listen: { smtp: { address: \"127.0.0.1:\" } }\n",
      "1:28: error: listen.smtp.address: '127.0.0.1:' has nothing behind its colon, expected a "
      "port" },
    { "listener tls word", "listen: { smtp: { address: 127.0.0.1:25, tls: startls } }\n",
      "1:47: error: listen.smtp.tls: 'startls' is unknown, expected none, starttls or "
      "implicit; did "
      "you mean 'starttls'?" },
    { "starttls without certificate", "listen: { smtp: { address: 127.0.0.1:25, tls: "
      "starttls } }\n",
      "1:47: error: listen.smtp: 'starttls' needs a certificate, expected a section such as tls: { "
      "certificate: cert.pem, key: key.pem }" },
    { "certificate without key", "tls: { certificate: cert.pem }\n",
      "1:6: error: tls: 'key' is missing, expected a PEM file of the certificate's key" },
    { "key without certificate", "tls:\n  - { certificate: a.pem, key: a.key }\n  - { key: "
      "b.key }\n",
      "3:5: error: tls: 'certificate' is missing, expected a PEM file of the certificate and its "
      "chain" },
    { "certificate is a list", "tls: { certificate: [ a.pem ], key: a.key }\n",
      "1:21: error: tls.certificate: a list, expected one value" },
    { "one certificate and many", "tls:\n  certificates: [ { certificate: a, key: b } ]\n  "
      "key: c\n",
      "2:3: error: tls: both 'certificate' and 'certificates', expected only one" },
    { "certificates of files", "tls: [ cert.pem ]\n",
      "1:8: error: tls: 'cert.pem' is a value, expected a map of keys and values" },
    { "tls minimum", "tls: { minimum: 1.1 }\n",
      "1:17: error: tls.minimum: '1.1' is unknown, expected 1.2 or 1.3; did you mean '1.2'?" },
    { "stats without address", "stats: { }\n",
      "1:8: error: stats: 'address' is missing, expected one such as \"unix:stats.sock\", "
      "or a list "
      "of them" },
    { "stats address", "stats: { address: stats.sock }\n",
      "1:19: error: stats.address: 'stats.sock' is not an address and port, expected one such as "
      "127.0.0.1:25 or [::1]:25" },
    { "stats unix without path", "stats: { address: \"unix:\" }\n",
      "1:19: error: stats.address: 'unix:' names no file, expected one such as unix:stats.sock" },
    { "stats path too long",
      "stats: { address: \"unix:0123456789012345678901234567890123456789012345678901234567890123456"
      "789012345678901234567890123\" }\n",
      "1:19: error: stats.address: the socket's path has 108 bytes with its directory, expected at "
      "most 107" },
    { "stats on a listener", "stats: { address: \"127.0.0.1:2525\" }\n",
      "1:19: error: stats.address: '127.0.0.1:2525' is an address of listen.smtp already, expected "
      "another one" },
    { "stats twice", "stats: { address: [ \"unix:a\", \"unix:/etc/ringpost/a\" ] }\n",
      "1:31: error: stats.address: 'unix:/etc/ringpost/a' is an address of stats already, expected "
      "another one" },
};

static const struct refusal route_refusals[] = {
    { "accept every domain", "accept: { domains: \"*\" }\n",
      "1:20: error: accept.domains: '*' would accept mail for every domain from anyone: an open "
      "relay; expected the names of your domains" },
    { "accept bad wildcard", "accept: { domains: \"ex*.example\" }\n",
      "1:20: error: accept.domains: 'ex*.example' is not a domain, expected one such as "
      "example.com "
      "or *.example.com" },
    { "accept mail address", "accept: { domains: info@example.com }\n",
      "1:20: error: accept.domains: 'info@example.com' is a mail address, expected a domain "
      "such as "
      "example.com or *.example.com" },
    { "accept dot at the end", "accept: { domains: example.com. }\n",
      "1:20: error: accept.domains: 'example.com.' ends with a dot, expected a domain such as "
      "example.com" },
    { "accept domain twice", "accept:\n  domains:\n    - example.com\n    - b.example\n"
      "    - Example.COM\n",
      "5:7: error: accept.domains: duplicate 'example.com', it stands on line 3 too" },
    { "accept list in list", "accept: { domains: [ [ example.com ] ] }\n",
      "1:22: error: accept.domains: a list, expected one value" },
    { "accept every IPv4 client", "accept: { networks: 0.0.0.0/0 }\n",
      "1:21: error: accept.networks: '0.0.0.0/0' would let every client relay: an open relay; "
      "expected your own networks" },
    { "accept everything", "accept: { networks: \"::/0\" }\n",
      "1:21: error: accept.networks: '::/0' would let every client relay: an open relay; expected "
      "your own networks" },
    { "accept IPv4 by its IPv6 form", "accept: { networks: \"::ffff:0:0/96\" }\n",
      "1:21: error: accept.networks: '::ffff:0:0/96' would let every client relay: an open relay; "
      "expected your own networks" },
    { "network with host bits", "accept: { networks: 10.0.0.1/8 }\n",
      "1:21: error: accept.networks: '10.0.0.1/8' has bits set behind its prefix, expected "
      "the first "
      "address of the network" },
    { "network prefix", "accept: { networks: 10.0.0.0/33 }\n",
      "1:21: error: accept.networks: '10.0.0.0/33' has a prefix that is none, expected /0 to /32 "
      "behind an IPv4 address" },
    { "network IPv6 prefix", "accept: { networks: \"fd00::/129\" }\n",
      "1:21: error: accept.networks: 'fd00::/129' has a prefix that is none, expected /0 to /128 "
      "behind an IPv6 address" },
    { "network octal", "accept: { networks: 010.0.0.0/8 }\n",
      "1:21: error: accept.networks: '010.0.0.0/8' is not a network, expected one such as "
      "192.0.2.0/24, 192.0.2.7 or 2001:db8::/32" },
    { "next hop empty", "next_hop: { }\n",
      "1:11: error: next_hop: empty, expected at least one next hop" },
    { "next hop without servers", "next_hop:\n  internal: { tls: none }\n",
      "2:13: error: next_hop.internal: 'servers' is missing, expected a list such as [ "
      "\"mx1.example.com:25\", \"192.0.2.1:25\" ]" },
    { "servers empty", "next_hop: { internal: { servers: [ ] } }\n",
      "1:34: error: next_hop.internal.servers: an empty list, expected at least one value" },
    { "server group empty", "next_hop: { internal: { servers: [ a.example, [ ] ] } }\n",
      "1:47: error: next_hop.internal.servers: an empty list, expected at least one value" },
    { "server group in a group", "next_hop: { internal: { servers: [ [ [ a.example ] ] ] } }\n",
      "1:38: error: next_hop.internal.servers: a list, expected one value" },
    { "servers too many",
      "next_hop: { internal: { servers: [ [ a.a, a.b, a.c, a.d, a.e, a.f, a.g, a.h, a.i ], [ b.a, "
      "b.b, b.c, b.d, b.e, b.f, b.g, b.h ] ] } }\n",
      "1:34: error: next_hop.internal.servers: 17 servers, expected at most 16" },
    { "server name", "next_hop: { internal: { servers: \"mx_1!:25\" } }\n",
      "1:34: error: next_hop.internal.servers: 'mx_1!:25' is not a server, expected one such as "
      "mx.example.com:25, 192.0.2.1:25 or [::1]:25" },
    { "server broken address", "next_hop: { internal: { servers: 192.0.2.256 } }\n",
      "1:34: error: next_hop.internal.servers: '192.0.2.256' is not a server, expected one such as "
      "mx.example.com:25, 192.0.2.1:25 or [::1]:25" },
    { "server port", "next_hop: { internal: { servers: \"mx.example.com:smtp\" } }\n",
      "1:34: error: next_hop.internal.servers: 'mx.example.com:smtp' has a port that is none, "
      "expected 1 to 65535" },
    { "server twice", "next_hop: { internal: { servers: [ MX.example, mx.example:25 ] } }\n",
      "1:48: error: next_hop.internal.servers: duplicate 'mx.example:25', expected each server "
      "once" },
    { "server is our listener", "next_hop: { internal: { servers: \"127.0.0.1:2525\" } }\n",
      "1:34: error: next_hop.internal.servers: '127.0.0.1:2525' is listen.smtp of this "
      "configuration: a loop; expected another server" },
    { "server is our listener by name", "next_hop: { internal: { servers: \"localhost:2525\" } }\n",
      "1:34: error: next_hop.internal.servers: 'localhost:2525' is listen.smtp of this "
      "configuration: a loop; expected another server" },
    { "server is ourselves", "next_hop: { internal: { servers: \"Edge.example.com:2525\" } }\n",
      "1:34: error: next_hop.internal.servers: 'Edge.example.com:2525' is listen.smtp of this "
      "configuration: a loop; expected another server" },
    { "server is our wildcard listener",
      "next_hop: { internal: { servers: \"[::1]:25\" } }\nlisten: { all: { address: "
      "\"[::]:25\" } }\n",
      "1:34: error: next_hop.internal.servers: '[::1]:25' is listen.all of this configuration: a "
      "loop; expected another server" },
    { "verify an address", "next_hop: { internal: { servers: 192.0.2.1, tls: verify } }\n",
      "1:34: error: next_hop.internal.servers: '192.0.2.1' is an address, and tls: verify needs a "
      "name: expected a host name here, or tls_name beside servers" },
    { "tls name is an address",
      "next_hop: { internal: { servers: a.example, tls: verify, tls_name: 192.0.2.1 } }\n",
      "1:68: error: next_hop.internal.tls_name: '192.0.2.1' is not a host name, expected "
      "one such as "
      "edge.example.com" },
    { "shared group", "next_hop: { internal: { balance: share, servers: [ [ a.b, a.c ], a.d "
      "] } }\n",
      "1:52: error: next_hop.internal.servers: a list inside the list, expected none: "
      "balance: share "
      "makes all servers equal" },
    { "hop option", "next_hop: { internal: { servers: a.example, connections: 0 } }\n",
      "1:58: error: next_hop.internal.connections: 0 is too small, expected 1 to 10000" },
    { "route empty", "route: { }\n", "1:8: error: route: empty, expected at least one route" },
    { "route to nowhere", "route: { \"*\": elsewhere }\n",
      "1:15: error: route.*: unknown next hop 'elsewhere', expected a name in next_hop" },
    { "route misspelt", "route: { \"*\": internl }\n",
      "1:15: error: route.*: unknown next hop 'internl', did you mean 'internal'?" },
    { "route to a list", "route: { \"*\": [ internal ] }\n",
      "1:15: error: route.*: a list, expected one value" },
    { "route pattern", "route: { \"*example.com\": internal }\n",
      "1:10: error: route: '*example.com' is not a domain, expected one such as example.com or "
      "*.example.com" },
    { "route twice", "route:\n  a.example: internal\n  \"*\": internal\n  A.example: internal\n",
      "4:3: error: route: duplicate 'a.example', it stands on line 2 too" },
};

static const struct refusal yaml_refusals[] = {
    { "unknown alias", "workers: *count\n",
      "1:11: error: no anchor '&count' before this alias; a text that begins with '*' needs "
      "quotes" },
    { "circle", "limits: &all { errors: *all }\n",
      "1:25: error: alias '*all' inside of what it names, expected a value that ends before it" },
    { "merge key", "limits: { <<: { errors: 5 } }\n",
      "1:11: error: merge keys ('<<') are not supported, expected the keys to be written out "
      "(aliases of whole values are supported)" },
    { "tag", "workers: !!int 5\n",
      "1:16: error: tags ('!...') are not supported, expected the value alone: its key "
      "gives it its "
      "type" },
    { "second document", "workers: 5\n---\n",
      "2:1: error: a second document, expected one only" },
    { "map as a key", "? { a: b }\n: c\n", "1:3: error: a map as a key, expected text" },
    { "list as a key", "? [ a ]\n: c\n", "1:3: error: a list as a key, expected text" },
    { "empty key", "? ''\n: c\n", "1:3: error: an empty key, expected text before the colon" },
    { "nested too deeply", "limits: [[[[[[[[[[[[[[[[ 1 ]]]]]]]]]]]]]]]]\n",
      "1:24: error: nested too deeply, expected at most 16 levels" },
    { "quotes in a row", "hostname: 'a''''b'\n",
      "1:11: error: quotes in a row inside of single quotes, expected the text in double quotes" },
    { "not UTF-8", "hostname: a\nworkers: \xff\n",
      "2:10: error: byte 0xff is not UTF-8, expected the whole file to be" },
    { "overlong UTF-8", "workers: \xc0\x80\n",
      "1:10: error: byte 0xc0 is not UTF-8, expected the whole file to be" },
    { "control character", "workers: \x1b[1m\n",
      "1:10: error: control character 0x1b, expected text" },
};

/* Where words and column are libfyaml's they differ between its versions: only ours are held. */
static const struct {
    const char *name, *text, *want, *place;
} syntax_refusals[] = {
    { "flow map not closed", "limits: { errors: 5\nworkers: 1\n", "YAML: ", "t.yaml:2:" },
    { "tab as indentation", "limits:\n\terrors: 5\n", "YAML: ", "t.yaml:2:" },
    { "quote not closed", "workers: \"5\n", "YAML: ", "t.yaml:" },
    { "no map", "workers: 5\n- a\n", "YAML: ", "t.yaml:2:" },
    { "bare star", "route: { *: internal }\n", "a text that begins with '*' needs quotes",
      "t.yaml:1:" },
    { "bare star in a block", "route:\n  *.example.com: internal\n",
      "a text that begins with '*' needs quotes", "t.yaml:2:" },
    { "text of many lines", "hostname: |\n  a.example\n",
      "hostname: control character 0x0a in a value, expected one line of text", "t.yaml:" },
};

static void
check_refusals(const struct refusal *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct refusal *row = &rows[i];
        struct config *config = config_text_parse(row->text, &errors);
        cr_assert_null(config, "%s: was accepted", row->name);
        cr_assert_eq(errors.error_count, 1, "%s: %zu errors, the first one: %s", row->name,
                     errors.error_count, errors.items[0].text);
        struct span line = config_text_first_line(&errors.items[errors.count - 1]);
        cr_assert(span_equal(line, span_text(row->want)), "%s:\n got %.*s\nwant %s", row->name,
                  (int)line.len, line.data, row->want);
    }
}

Test(config, refuses_and_says_where)
{
    check_refusals(top_refusals, COUNT_OF(top_refusals));
    check_refusals(option_refusals, COUNT_OF(option_refusals));
    check_refusals(network_refusals, COUNT_OF(network_refusals));
    check_refusals(route_refusals, COUNT_OF(route_refusals));
    check_refusals(yaml_refusals, COUNT_OF(yaml_refusals));
}

Test(config, refuses_what_is_not_yaml)
{
    for (size_t i = 0; i < COUNT_OF(syntax_refusals); i++) {
        const char *name = syntax_refusals[i].name, *place = syntax_refusals[i].place;
        const char *text = errors.items[0].text;
        cr_assert_null(config_text_parse(syntax_refusals[i].text, &errors), "%s", name);
        cr_assert_eq(strncmp(text, place, strlen(place)), 0, "%s: %s", name, text);
        cr_assert_not_null(strstr(text, syntax_refusals[i].want), "%s: %s", name, text);
    }
}

static const struct refusal warnings[] = {
    { "bare host name", "hostname: edge\n",
      "1:11: warning: hostname: 'edge' has no dot; many servers refuse such a name (RFC "
      "5321 4.1.1.1 "
      "asks for a full domain)" },
    { "nobody may send", "accept: { networks: [ ], domains: [ ] }\n",
      "1:9: warning: accept has no networks and no domains: every recipient is refused" },
    { "unused next hop", "next_hop:\n  internal: { servers: a.example }\n"
      "  other: { servers: b.example }\n",
      "3:3: warning: next_hop.other is used by no route" },
    { "ca without verify", "next_hop: { internal: { servers: a.example, ca: ca.pem } }\n",
      "1:49: warning: next_hop.internal.ca: has no effect without tls: verify" },
    { "name without tls", "next_hop: { internal: { servers: a.b, tls: none, tls_name: b.c } }\n",
      "1:60: warning: next_hop.internal.tls_name: has no effect with tls: none" },
};

Test(config, warns_and_accepts)
{
    for (size_t i = 0; i < COUNT_OF(warnings); i++) {
        const struct refusal *row = &warnings[i];
        struct config *config = config_text_parse(row->text, &errors);
        cr_assert_not_null(config, "%s: %s", row->name, errors.items[0].text);
        cr_assert_eq(errors.warning_count, 1, "%s", row->name);
        cr_assert_eq(errors.error_count, 0, "%s", row->name);
        struct span line = config_text_first_line(&errors.items[0]);
        cr_assert(span_equal(line, span_text(row->want)), "%s:\n got %.*s\nwant %s", row->name,
                  (int)line.len, line.data, row->want);
        config_free(config);
    }
}
