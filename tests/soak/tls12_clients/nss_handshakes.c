/* Honest TLS 1.2 handshakes by NSS: nss_handshakes PORT NAME COUNT GROUP (29 X25519, 23 P-256, 24 P-384) */
#include <nss.h>
#include <prio.h>
#include <prnetdb.h>
#include <prerror.h>
#include <ssl.h>
#include <sslproto.h>
#include <stdio.h>
#include <stdlib.h>

static SECStatus accept_any(void *context, PRFileDesc *socket, PRBool check, PRBool server)
{
    (void)context, (void)socket, (void)check, (void)server;
    return SECSuccess;
}

static int shake(int port, const char *name, SSLNamedGroup group)
{
    /* The curve of an ECDSA certificate must be among the groups, too (RFC 8422, section 5.1). */
    const SSLNamedGroup groups[] = { group, ssl_grp_ec_secp256r1 };
    const SSLVersionRange tls12 = { SSL_LIBRARY_VERSION_TLS_1_2, SSL_LIBRARY_VERSION_TLS_1_2 };
    PRNetAddr address;
    SSLChannelInfo channel;
    PRFileDesc *plain = PR_NewTCPSocket(), *tls = SSL_ImportFD(NULL, plain);
    int done = 0;

    PR_InitializeNetAddr(PR_IpAddrLoopback, (PRUint16)port, &address);
    if (tls != NULL && SSL_OptionSet(tls, SSL_SECURITY, PR_TRUE) == SECSuccess
        && SSL_OptionSet(tls, SSL_NO_CACHE, PR_TRUE) == SECSuccess
        && SSL_VersionRangeSet(tls, &tls12) == SECSuccess
        && SSL_NamedGroupConfig(tls, groups, group == ssl_grp_ec_secp256r1 ? 1 : 2) == SECSuccess
        && SSL_AuthCertificateHook(tls, accept_any, NULL) == SECSuccess
        && SSL_SetURL(tls, name) == SECSuccess && PR_Connect(tls, &address, PR_SecondsToInterval(10)) == PR_SUCCESS
        && SSL_ResetHandshake(tls, PR_FALSE) == SECSuccess && SSL_ForceHandshake(tls) == SECSuccess
        && SSL_GetChannelInfo(tls, &channel, sizeof channel) == SECSuccess)
        done = channel.protocolVersion == SSL_LIBRARY_VERSION_TLS_1_2;
    if (!done)
        fprintf(stderr, "NSS error %d\n", PR_GetError());
    PR_Close(tls != NULL ? tls : plain);
    return done;
}

int main(int argc, char **argv)
{
    int done = 0, number;

    if (argc != 5 || NSS_NoDB_Init(NULL) != SECSuccess || NSS_SetDomesticPolicy() != SECSuccess)
        return 1;
    for (number = 0; number < atoi(argv[3]); number++)
        done += shake(atoi(argv[1]), argv[2], (SSLNamedGroup)atoi(argv[4]));
    printf("%d\n", done);
    return 0;
}
