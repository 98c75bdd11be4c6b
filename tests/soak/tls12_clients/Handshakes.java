// Honest TLS 1.2 handshakes by Java's own implementation: java [-Djdk.tls.namedGroups=...] Handshakes.java HOST PORT NAME COUNT
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import java.util.List;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

class Handshakes {
    static final TrustManager ANY = new X509TrustManager() {
        public void checkClientTrusted(X509Certificate[] chain, String type) {}

        public void checkServerTrusted(X509Certificate[] chain, String type) {}

        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    };

    public static void main(String[] given) throws Exception {
        int done = 0;
        for (int number = 0; number < Integer.parseInt(given[3]); number++) {
            SSLContext context = SSLContext.getInstance("TLSv1.2"); // a new one has no session to resume
            context.init(null, new TrustManager[] {ANY}, new SecureRandom());
            try (SSLSocket socket =
                    (SSLSocket) context.getSocketFactory().createSocket(given[0], Integer.parseInt(given[1]))) {
                SSLParameters parameters = socket.getSSLParameters();
                parameters.setServerNames(List.of(new SNIHostName(given[2])));
                parameters.setProtocols(new String[] {"TLSv1.2"});
                socket.setSSLParameters(parameters);
                socket.startHandshake();
                if (!socket.getSession().getProtocol().equals("TLSv1.2")) throw new Exception("another version");
                done++;
            } catch (java.io.IOException error) {
                System.err.println(error);
            }
        }
        System.out.println(done);
    }
}
