/* bare_script: what the bare relay says, to client and next hop: octet for octet as ringpost would.
 * Does:    the texts of the dialogue that it knows beforehand.
 * Owns:    nothing.
 */
#ifndef RINGPOST_BENCH_BARE_SCRIPT_H
#define RINGPOST_BENCH_BARE_SCRIPT_H

#define TEXT(name, text) static const char name[] = text
#define REPLY_MAIL "250 2.1.0 Ok\r\n"
#define REPLY_RCPT "250 2.1.5 Ok\r\n"
#define REPLY_DATA "354 Send the message; a line with one dot ends it\r\n"
#define REPLY_END "250 2.0.0 Ok\r\n"
#define REPLY_QUIT "221 2.0.0 relay.test closes the connection\r\n"
TEXT(greeting, "220 relay.test ESMTP ringpost\r\n");
TEXT(reply_helo, "250 relay.test\r\n");
TEXT(reply_ehlo, "250-relay.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n"
                 "250-SMTPUTF8\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250 CHUNKING\r\n");
TEXT(reply_mail, REPLY_MAIL);
TEXT(reply_rcpt, REPLY_RCPT);
TEXT(reply_data, REPLY_DATA);
TEXT(reply_group, REPLY_MAIL REPLY_RCPT REPLY_DATA);
TEXT(reply_end, REPLY_END);
TEXT(reply_end_group, REPLY_END REPLY_MAIL REPLY_RCPT REPLY_DATA);
TEXT(reply_quit, REPLY_QUIT);
TEXT(reply_end_quit, REPLY_END REPLY_QUIT);
TEXT(hop_ehlo, "EHLO relay.test\r\n");
TEXT(hop_group, "MAIL FROM:<from@client.test> SIZE=4361\r\nRCPT TO:<to@sink.test>\r\nDATA\r\n");
#define hop_chunk \
    "MAIL FROM:<from@client.test> SIZE=4361\r\nRCPT TO:<to@sink.test>\r\nBDAT %zu LAST\r\n"
TEXT(trace_field, "Received: from client.test (client.test [127.0.0.1])\r\n"
                  "\tby relay.test (ringpost) with ESMTP id 001KVLCTQCZJ0\r\n"
                  "\tfor <to@sink.test>; Sun, 22 Nov 2026 06:59:08 +0000\r\n");

#undef TEXT

#endif
