--
-- PostgreSQL database dump
--


-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: alembic_version; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);


--
-- Name: audit_discontinuities; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.audit_discontinuities (
    origin character varying(128) NOT NULL COLLATE pg_catalog."C",
    declared character varying(32) NOT NULL COLLATE pg_catalog."C",
    note text NOT NULL
);


--
-- Name: audit_heads; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.audit_heads (
    origin character varying(128) NOT NULL COLLATE pg_catalog."C",
    size bigint NOT NULL,
    root bytea NOT NULL,
    key text NOT NULL
);


--
-- Name: ca_clients; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.ca_clients (
    ca_fingerprint character varying(128) NOT NULL COLLATE pg_catalog."C",
    client_id integer NOT NULL
);


--
-- Name: cas; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.cas (
    fingerprint character varying(128) NOT NULL COLLATE pg_catalog."C",
    public_key text NOT NULL,
    max_lifetime_s bigint DEFAULT '86400'::bigint NOT NULL
);


--
-- Name: certificates; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.certificates (
    key_id integer NOT NULL,
    chain_pem text NOT NULL,
    not_after timestamp with time zone NOT NULL
);


--
-- Name: clients; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.clients (
    id integer NOT NULL,
    name character varying(64) NOT NULL COLLATE pg_catalog."C",
    role character varying(16) NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT ck_clients_ck_clients_known_role CHECK (((role)::text = ANY ((ARRAY['operator'::character varying, 'auditor'::character varying, 'front-end'::character varying])::text[])))
);


--
-- Name: clients_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.clients_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: clients_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.clients_id_seq OWNED BY public.clients.id;


--
-- Name: credentials; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.credentials (
    fingerprint character varying(128) NOT NULL COLLATE pg_catalog."C",
    client_id integer NOT NULL,
    public_key text NOT NULL,
    successor_of character varying(128) COLLATE pg_catalog."C"
);


--
-- Name: enrolments; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.enrolments (
    id character varying(32) NOT NULL COLLATE pg_catalog."C",
    client_id integer NOT NULL,
    secret_sha256 bytea NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    tries integer NOT NULL
);


--
-- Name: grants; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.grants (
    client_id integer NOT NULL,
    key_id integer NOT NULL,
    purpose smallint NOT NULL
);


--
-- Name: key_owners; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.key_owners (
    key_id integer NOT NULL,
    client_id integer NOT NULL
);


--
-- Name: key_purposes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.key_purposes (
    key_id integer NOT NULL,
    purpose smallint NOT NULL
);


--
-- Name: keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.keys (
    id integer NOT NULL,
    name character varying(64) NOT NULL COLLATE pg_catalog."C",
    key_type character varying(32) NOT NULL,
    digest bytea NOT NULL,
    public_key bytea NOT NULL,
    token character varying(256) NOT NULL,
    created_at timestamp with time zone NOT NULL,
    warnings text NOT NULL
);


--
-- Name: keys_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.keys_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: keys_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.keys_id_seq OWNED BY public.keys.id;


--
-- Name: revocations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.revocations (
    kind character varying(16) NOT NULL,
    ca_fingerprint character varying(128) NOT NULL COLLATE pg_catalog."C",
    value character varying(256) NOT NULL COLLATE pg_catalog."C",
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT ck_revocations_ck_revocations_known_kind CHECK (((kind)::text = ANY ((ARRAY['key'::character varying, 'serial'::character varying, 'key-id'::character varying])::text[])))
);


--
-- Name: state; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.state (
    id integer NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT ck_state_ck_state_one_row CHECK ((id = 1))
);


--
-- Name: token_logins; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.token_logins (
    token character varying(256) NOT NULL COLLATE pg_catalog."C",
    stopped_at timestamp with time zone,
    stopped_by character varying(256) NOT NULL,
    reason text NOT NULL,
    cleared boolean NOT NULL,
    holder character varying(512) NOT NULL,
    held_until timestamp with time zone
);


--
-- Name: clients id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.clients ALTER COLUMN id SET DEFAULT nextval('public.clients_id_seq'::regclass);


--
-- Name: keys id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.keys ALTER COLUMN id SET DEFAULT nextval('public.keys_id_seq'::regclass);


--
-- Data for Name: alembic_version; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.alembic_version (version_num) FROM stdin;
0004
\.


--
-- Data for Name: audit_discontinuities; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.audit_discontinuities (origin, declared, note) FROM stdin;
hsmd/takeover-throw-away	2026-11-29T15:39:01.164180Z	hsmd discontinuity v1\norigin hsmd/takeover-throw-away\nold 228 IXZDaEClJQPYTrwUn5xG38CT+GRivZ6yYWSN3gMJoYc=\nnew 231 tgAvaBIjKqzeRsa5vaWZ8MBrpTEjHNdivvw+iBG752o=\nkey hsmd/takeover-throw-away+bb14c758+ASLYggxAaIgivlpRfP/nF0FDxeUaNd9z2R0OhgA9OINS\ntime 2026-11-29T15:39:01.164180Z\nreason moved to PostgreSQL\n\n— hsmd/operator FYvcMopksUulkW/wNm+LHKqvn1PMFBj1h5evb87kwqFBPlYsTRpnKUbzRkUXOeIClD1auE08WsaiNdYnVg87NQ6ziA4=\n
\.


--
-- Data for Name: audit_heads; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.audit_heads (origin, size, root, key) FROM stdin;
hsmd/takeover-throw-away	282	\\xc152188fc1b28409922bb31b54b6b61d38ae1303e1bd22279df5dfa51a3beb1c	hsmd/takeover-throw-away+bb14c758+ASLYggxAaIgivlpRfP/nF0FDxeUaNd9z2R0OhgA9OINS
\.


--
-- Data for Name: ca_clients; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.ca_clients (ca_fingerprint, client_id) FROM stdin;
SHA256:qBbcYVlc62JlNUG+r7dkYphTtg5zPcrZp/Ssi16/EiE	8
\.


--
-- Data for Name: cas; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.cas (fingerprint, public_key, max_lifetime_s) FROM stdin;
SHA256:qBbcYVlc62JlNUG+r7dkYphTtg5zPcrZp/Ssi16/EiE	ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP/baov46HrBNcfNSLN++Ba7XUW9lM1+mdpmeoq57Z3O	86400
\.


--
-- Data for Name: certificates; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.certificates (key_id, chain_pem, not_after) FROM stdin;
1	-----BEGIN CERTIFICATE-----\nMIIBdzCCAR2gAwIBAgIUMxsyDLEjgtYKiHMfHNDPrvm0ah0wCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAAMFkwEwYHKoZIzj0CAQYIKoZIzj0D\nAQcDQgAEUd/aV0B2K2Gv+8AsCuz9BHNt3pvd0slY9YqJDuJaWeQlAMvZE4GkbTsl\nOurOqKRyZKUybpUS8STLp8bZm+v7SqNNMEswDAYDVR0TAQH/BAIwADAdBgNVHQ4E\nFgQUJN3YJPSZNGnt8ARIYvpUG0jng9gwHAYDVR0RBBUwE4IRd3d3LnRha2VvdmVy\nLnRlc3QwCgYIKoZIzj0EAwIDSAAwRQIhAJ3JOAIjY1VeRpZRxEW6s5Z7klNEbNJ4\naG8zuDvy/gJxAiBidAxPK+/Q85LhWKh0jOiJ+WrSC/uD+GFs2d41fLM6tQ==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nMIIBgjCCASigAwIBAgIUSD5VoSG8d50pfU08ALKPE7Ctq50wCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAmMSQwIgYDVQQDDBt0YWtlb3Zlci10\naHJvdy1hd2F5IHRlc3QgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASr2TfK\nykAtkeR8R2vX0mowANEEEYfzuW5CvMGIMENjiGBKGEwFF2MXrrEp+Lfaq58O04Uc\nuqGXtew6dXuw7oiSozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBT/z6Xh\nwsm3/olLECXTW4gpC1MHBzAKBggqhkjOPQQDAgNIADBFAiAa7hAh4L8VgaB1OIJM\nzz4U3mHHtKHHkWT31dENQUQ+tgIhAJyL+0eWqtPyCD8dCRInu6AZADonHlR3d3lr\nkMsHyA/E\n-----END CERTIFICATE-----\n	9999-12-31 00:00:00+00
2	-----BEGIN CERTIFICATE-----\nMIICQzCCAemgAwIBAgIUTNdhNPojggDLxZ7w4VWNjmb9vP8wCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAAMIIBIjANBgkqhkiG9w0BAQEFAAOC\nAQ8AMIIBCgKCAQEAkmk+8EuHd3UQe/hnlWkImIFOPt3EWuescI1Xx3CBNkkOwZAM\nKirUnrr/omwGpWQnDRjJQ9pG12XDtJG3TcaMzbSk7CopIRvq/rFS61dbIsZtvvC+\nyTc/wk3VmeExFr8ZQpdl1NnXHC5USP+RcjqyJVEBLx1NXqxK9KpgKiGmr73Jvmca\nAJL+pN3PxYbCU6v5kkAe0XnJ8IQnr0XnLoMlvCR88pWDC2KEeOpSaQUWPLgogneM\n8PqVF3X6Y01c3Nvnw+IW2UXA2xdKFzwme0EuTjDoHwFKHZYS0TUJYP+N34ee8u+x\nPx/dkjiZKmvlZQUc9dseg1d4Hs2L7QSyzavH7QIDAQABo04wTDAMBgNVHRMBAf8E\nAjAAMB0GA1UdDgQWBBRoZkDnya/++mA5kB/eKfM8Lhf5/zAdBgNVHREEFjAUghJz\naG9wLnRha2VvdmVyLnRlc3QwCgYIKoZIzj0EAwIDSAAwRQIhAK/emS06r3CxfRos\nPva3gSvCBwwVjOKc3RnOyXxhoqnRAiAtpftrpDVmid+90F0nXy8guaTECNJAWtw2\ngm0kWXnQYw==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nMIIBgjCCASigAwIBAgIUSD5VoSG8d50pfU08ALKPE7Ctq50wCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAmMSQwIgYDVQQDDBt0YWtlb3Zlci10\naHJvdy1hd2F5IHRlc3QgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASr2TfK\nykAtkeR8R2vX0mowANEEEYfzuW5CvMGIMENjiGBKGEwFF2MXrrEp+Lfaq58O04Uc\nuqGXtew6dXuw7oiSozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBT/z6Xh\nwsm3/olLECXTW4gpC1MHBzAKBggqhkjOPQQDAgNIADBFAiAa7hAh4L8VgaB1OIJM\nzz4U3mHHtKHHkWT31dENQUQ+tgIhAJyL+0eWqtPyCD8dCRInu6AZADonHlR3d3lr\nkMsHyA/E\n-----END CERTIFICATE-----\n	9999-12-31 00:00:00+00
3	-----BEGIN CERTIFICATE-----\nMIIBSDCB76ADAgECAhRnX4wJLRU7TGsdJyHu+ElHTLK2tTAKBggqhkjOPQQDAjAm\nMSQwIgYDVQQDDBt0YWtlb3Zlci10aHJvdy1hd2F5IHRlc3QgQ0EwIBcNMDAwMTAx\nMDAwMDAwWhgPOTk5OTEyMzEwMDAwMDBaMAAwKjAFBgMrZXADIQAOFw6dZqcZQwgh\nI4JSr3iykS+GaFJHs6smYfoKCewRHKNOMEwwDAYDVR0TAQH/BAIwADAdBgNVHQ4E\nFgQUWJBREVJoxQ+7V3gmBmdGLY/+H1MwHQYDVR0RBBYwFIISZWRnZS50YWtlb3Zl\nci50ZXN0MAoGCCqGSM49BAMCA0gAMEUCIGvqTp+2EUnFrRfpje/pcP/a0XCuZsZP\nIWLpgYHO6vvYAiEAlr2jP2F+Sg+a53cZeR3u6FfXjabfUUohvoWf8oyaoQw=\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nMIIBgjCCASigAwIBAgIUSD5VoSG8d50pfU08ALKPE7Ctq50wCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAmMSQwIgYDVQQDDBt0YWtlb3Zlci10\naHJvdy1hd2F5IHRlc3QgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASr2TfK\nykAtkeR8R2vX0mowANEEEYfzuW5CvMGIMENjiGBKGEwFF2MXrrEp+Lfaq58O04Uc\nuqGXtew6dXuw7oiSozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBT/z6Xh\nwsm3/olLECXTW4gpC1MHBzAKBggqhkjOPQQDAgNIADBFAiAa7hAh4L8VgaB1OIJM\nzz4U3mHHtKHHkWT31dENQUQ+tgIhAJyL+0eWqtPyCD8dCRInu6AZADonHlR3d3lr\nkMsHyA/E\n-----END CERTIFICATE-----\n	9999-12-31 00:00:00+00
7	-----BEGIN CERTIFICATE-----\nMIIBfDCCASKgAwIBAgIUQ4Ox28fxtP7FSZ1HVJhfOpTakhcwCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAAMFkwEwYHKoZIzj0CAQYIKoZIzj0D\nAQcDQgAE88sIa1kmzNdcp3gDqs0A0WjkoiNmR0HZ7Y1UNBnNmVOe7PSl56CJgoOm\nJ4V8KokQHblctoEUI8GyxDTELd7gOaNSMFAwDAYDVR0TAQH/BAIwADAdBgNVHQ4E\nFgQUtoOgtgF2ZX/TI+JV/IfESXhQctQwIQYDVR0RBBowGIIWaW1wb3J0ZWQudGFr\nZW92ZXIudGVzdDAKBggqhkjOPQQDAgNIADBFAiEAzTrDu9ZKBrvSA4GgshM4+Jq6\nqSq/NMs5xrUDSWE9YyACIASuLwGyOBRRdmu7ds6Ws8kLMdtQMkS3+yEpzPj6kj+r\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nMIIBgjCCASigAwIBAgIUSD5VoSG8d50pfU08ALKPE7Ctq50wCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAmMSQwIgYDVQQDDBt0YWtlb3Zlci10\naHJvdy1hd2F5IHRlc3QgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASr2TfK\nykAtkeR8R2vX0mowANEEEYfzuW5CvMGIMENjiGBKGEwFF2MXrrEp+Lfaq58O04Uc\nuqGXtew6dXuw7oiSozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBT/z6Xh\nwsm3/olLECXTW4gpC1MHBzAKBggqhkjOPQQDAgNIADBFAiAa7hAh4L8VgaB1OIJM\nzz4U3mHHtKHHkWT31dENQUQ+tgIhAJyL+0eWqtPyCD8dCRInu6AZADonHlR3d3lr\nkMsHyA/E\n-----END CERTIFICATE-----\n	9999-12-31 00:00:00+00
9	-----BEGIN CERTIFICATE-----\nMIICRzCCAeygAwIBAgIUBYh2fN5EP/ooBlwPhCrMlCNQaYUwCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAAMIIBIjANBgkqhkiG9w0BAQEFAAOC\nAQ8AMIIBCgKCAQEAr4+Jzhoz7JaxUL9/oUA7k4t+5PTaq08IGDhfVf/RqDfAisxZ\nLNQV4kMMFXR6BtBzXinZElZ4VBDEPxZGpzaUZtkDF1xF9V5V2nUEtHCWkjSTn+wh\nRezp1eMdsYuO4f4nj/gRgqQiQq9AXahGAB6yKfNNSog2QmERq51q9lwYLppGQ3HI\nzIh3OOztfm1XW/I0JGxh4rgTlCtwhOpIXHmkf8n7QQOPgKqXQ94VfFIm0IPFggBH\nFNVOFr43Qcc+iVF7pcPU0+BE1mAidbbmUlXOST8QgJj+OqXbsVyaD40jIOdWoqgR\nkraJvafVjqVvgp5xr9UX+okOZQdPUUtYN2LYdQIDAQABo1EwTzAMBgNVHRMBAf8E\nAjAAMB0GA1UdDgQWBBSi1iveVavsghrEHYjs+z/V7sdO+TAgBgNVHREEGTAXghVh\nZG9wdGVkLnRha2VvdmVyLnRlc3QwCgYIKoZIzj0EAwIDSQAwRgIhAN0gt+K0iVoS\nUUqE/5hMJZgeyxe+k/5azHOjF2W6Vn0cAiEA0oD2Er0UIJwRCd95wOhxnaG3Vcg9\nk96dEqniNm0xX9c=\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nMIIBgjCCASigAwIBAgIUSD5VoSG8d50pfU08ALKPE7Ctq50wCgYIKoZIzj0EAwIw\nJjEkMCIGA1UEAwwbdGFrZW92ZXItdGhyb3ctYXdheSB0ZXN0IENBMCAXDTAwMDEw\nMTAwMDAwMFoYDzk5OTkxMjMxMDAwMDAwWjAmMSQwIgYDVQQDDBt0YWtlb3Zlci10\naHJvdy1hd2F5IHRlc3QgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASr2TfK\nykAtkeR8R2vX0mowANEEEYfzuW5CvMGIMENjiGBKGEwFF2MXrrEp+Lfaq58O04Uc\nuqGXtew6dXuw7oiSozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBT/z6Xh\nwsm3/olLECXTW4gpC1MHBzAKBggqhkjOPQQDAgNIADBFAiAa7hAh4L8VgaB1OIJM\nzz4U3mHHtKHHkWT31dENQUQ+tgIhAJyL+0eWqtPyCD8dCRInu6AZADonHlR3d3lr\nkMsHyA/E\n-----END CERTIFICATE-----\n	9999-12-31 00:00:00+00
\.


--
-- Data for Name: clients; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.clients (id, name, role, created_at) FROM stdin;
1	operator	operator	2026-11-29 15:38:04.181359+00
2	web-1	front-end	2026-11-29 15:38:16.669796+00
3	auditor	auditor	2026-11-29 15:38:18.187215+00
4	never-enrolled	front-end	2026-11-29 15:38:19.62306+00
5	web-2	front-end	2026-11-29 15:38:20.261629+00
7	second-operator	operator	2026-11-29 15:38:23.378023+00
8	web-certified	front-end	2026-11-29 15:38:24.349786+00
9	postgresql-client	front-end	2026-11-29 15:39:03.7571+00
10	never-enrolled-postgresql	front-end	2026-11-29 15:39:06.46813+00
\.


--
-- Data for Name: credentials; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.credentials (fingerprint, client_id, public_key, successor_of) FROM stdin;
SHA256:7eOu95aFZ4kdMHoNh5vl2CzXYOIXWpd+7CYIKFpB5fY	5	ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIANxJrfER+R0UdGsAVbjy+DFkX9vufQFuWSpAqkWPpz6	\N
SHA256:TeLMUp4vDECGPswUZf7/YF66tAIbeGndIfUk22iTHQo	2	ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFn9wzD/ZL3C4hfpX8YDwyYZYJYP/ZsVDGAgVaQZs/Hr	\N
SHA256:VX55qa97Eiew1ptA2iF2RYJ8dcPntHSpQZuH9fRkRgU	5	ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAZS8+LWPLb18TiyIbLJuHAVDCih44Ebp2HqFAIL7bWr	\N
SHA256:mR52/DrsFMORSdy8PStnMSABzmqVC3fzCCraYNycBrY	1	ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHibIAbWGKn4JwxUnXj1RXbbSJqBFadwiG3RiPyluz17	\N
SHA256:oGmBfgqpg++Pvb67YSeYfPMOZMH9TfZhwqYIbnWUnDM	7	ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGDWkh2HjRD9fVi8SrVZtXWSN9xkLWuVBhPR0yVgj8W	\N
SHA256:wn1iRqhfCuXejhOvxew5ubGOnGXNZUrRMvSjHovVvNU	3	ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF01TRdLMZiupGVx4Mt0UzEjc5ot81ARNkaY27D3eEiA	\N
SHA256:JQPlDbjgY2L7BUU1rJ9x/PwG3J6PfhNjJrKCC06qVXE	9	ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICAEfqhmw87+lp7Z3frm6bVRtyoF71wcYXEXDibrrL9t	\N
\.


--
-- Data for Name: enrolments; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.enrolments (id, client_id, secret_sha256, expires_at, tries) FROM stdin;
b1026346585ed785	4	\\xab62277bf27f4ec80de5b0d9b038cbb8a0d17f2ab3fe0c706922c34690a16101	2026-11-29 15:53:19.62306+00	0
68fb5969c9c9c8a8	10	\\x49604d6e60a90e44833adff2e800f58eae67d90327aa5b32be1d42d18f5fe3ad	2026-11-29 15:54:06.46813+00	0
\.


--
-- Data for Name: grants; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.grants (client_id, key_id, purpose) FROM stdin;
2	1	1
2	1	3
2	2	1
2	2	3
2	3	1
2	4	5
2	5	8
2	5	9
2	7	1
2	7	3
4	1	1
4	1	3
5	2	1
5	2	2
5	2	4
8	1	1
8	1	3
9	10	1
9	10	3
2	10	1
\.


--
-- Data for Name: key_owners; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.key_owners (key_id, client_id) FROM stdin;
1	5
2	3
\.


--
-- Data for Name: key_purposes; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.key_purposes (key_id, purpose) FROM stdin;
1	1
1	3
1	128
1	129
2	1
2	2
2	3
2	4
2	128
2	129
3	1
3	128
3	129
4	5
5	8
5	9
5	128
5	129
7	1
7	3
7	128
7	129
8	130
9	1
9	3
9	128
9	129
10	1
10	3
10	128
10	129
\.


--
-- Data for Name: keys; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.keys (id, name, key_type, digest, public_key, token, created_at, warnings) FROM stdin;
1	www	p-256	\\x338d7f539ec06c70e4309b406ea1784ac69c1ac38a51ad67232aaf5d18cb01f9	\\x3059301306072a8648ce3d020106082a8648ce3d0301070342000451dfda5740762b61affbc02c0aecfd04736dde9bddd2c958f58a890ee25a59e42500cbd91381a46d3b253aeacea8a47264a5326e9512f124cba7c6d99bebfb4a	softhsm	2026-11-29 15:38:06.187453+00	[]
2	shop	rsa-2048	\\x37bf023ab12974f94057ff80cf69cdfd8af951bec8ceed686aa47cd4027fec18	\\x30820122300d06092a864886f70d01010105000382010f003082010a028201010092693ef04b877775107bf86795690898814e3eddc45ae7ac708d57c7708136490ec1900c2a2ad49ebaffa26c06a564270d18c943da46d765c3b491b74dc68ccdb4a4ec2a29211beafeb152eb575b22c66dbef0bec9373fc24dd599e13116bf19429765d4d9d71c2e5448ff91723ab22551012f1d4d5eac4af4aa602a21a6afbdc9be671a0092fea4ddcfc586c253abf992401ed179c9f08427af45e72e8325bc247cf295830b628478ea526905163cb82882778cf0fa951775fa634d5cdcdbe7c3e216d945c0db174a173c267b412e4e30e81f014a1d9612d1350960ff8ddf879ef2efb13f1fdd9238992a6be565051cf5db1e8357781ecd8bed04b2cdabc7ed0203010001	softhsm	2026-11-29 15:38:06.75491+00	[]
3	edge	ed25519	\\x84e637efbe9a4e93b3f0829e2a91ee32c55d468eda83d45616ae9b4de05f8f6a	\\x302a300506032b65700321000e170e9d66a719430821238252af78b2912f86685247b3ab2661fa0a09ec111c	softhsm	2026-11-29 15:38:07.213033+00	[]
4	legacy	rsa-2048	\\xeaf66a019803489da8aa889745bb1164e46bde4571b0e871cfbeb7f40e65f1eb	\\x30820122300d06092a864886f70d01010105000382010f003082010a0282010100beaedd4879741f727508aeb44cfa8b061e6fdba4045253b95f1a0a581ac5c8915178aee9612ec3fba9b8d98647df2ff9c470b04d142a6be24d512a80b2c98ceac87b8903e081be497ca279a291c29d08df0f9b1b323e15c14ab4b2b3bff107b6dfd8c0611600be9245557df0453547008690382d6b4cb051ef3d3dfd0db15239978f219e13c7d79ed1792460869b78b1974ed0aabfffbfcfecfb4c2b04f7900c81770af4bde25db37f98fd7d2d30b8c79451939df28af7ce8efcc9b4971494fe427154d7678b28052bc54b635d8beec869df127dcd2701455e44a34c2dbe6b9a1e14a8c5747e4c9147c62d13a338d8e930418b05852a87caec3c6f2895476d5f0203010001	softhsm	2026-11-29 15:38:07.75536+00	[]
5	documents	p-256	\\x71a467c1ccdd31c34dc01407a3a0e598c7629266d1a20cf70a0495faf4015e21	\\x3059301306072a8648ce3d020106082a8648ce3d03010703420004696489dfb771161419e16bb85324624711e3f4428090135213c2bd8a63a79f8e203ecce1c28f097558af02d498a6d7fc114a6f868b05abbc16bad7be9a659fa3	softhsm	2026-11-29 15:38:08.180785+00	[]
7	imported	p-256	\\xe3272c687604eb0be40c84f709bf7880d41691b82e62adacd7818531e138e04f	\\x3059301306072a8648ce3d020106082a8648ce3d03010703420004f3cb086b5926ccd75ca77803aacd00d168e4a223664741d9ed8d543419cd99539eecf4a5e7a0898283a627857c2a89101db95cb6811423c1b2c434c42ddee039	softhsm	2026-11-29 15:38:10.138088+00	[]
8	hsmd-checkpoint	ed25519	\\xe860060b655ed16dd66c8860a37af4adc279713da27c1333b13ded6757e64a6a	\\x302a300506032b657003210022d8820c40688822be5a517cffe7174143c5e51a35df73d91d0e86003d388352	softhsm	2026-11-29 15:38:10.175705+00	[]
9	adopted	rsa-2048	\\xcb95f096b2a6bc1ed756dc5018d1fd145573657275c5f81d0ee47c5410f4043f	\\x30820122300d06092a864886f70d01010105000382010f003082010a0282010100af8f89ce1a33ec96b150bf7fa1403b938b7ee4f4daab4f0818385f55ffd1a837c08acc592cd415e2430c15747a06d0735e29d91256785410c43f1646a7369466d903175c45f55e55da7504b470969234939fec2145ece9d5e31db18b8ee1fe278ff81182a42242af405da846001eb229f34d4a8836426111ab9d6af65c182e9a464371c8cc887738eced7e6d575bf234246c61e2b813942b7084ea485c79a47fc9fb41038f80aa9743de157c5226d083c582004714d54e16be3741c73e89517ba5c3d4d3e044d6602275b6e65255ce493f108098fe3aa5dbb15c9a0f8d2320e756a2a81192b689bda7d58ea56f829e71afd517fa890e65074f514b583762d8750203010001	softhsm	2026-11-29 15:38:10.835231+00	["modifiable","may unwrap","may sign and decrypt"]
10	postgresql-key	p-256	\\xf90829e01d5b51d4055496f5f3f1dc4b12e54e2beb36401c6ee98df6d91615b4	\\x3059301306072a8648ce3d020106082a8648ce3d03010703420004e606d2225b50c990e948cfc5b79c84dea37099b8c5656a4ee899600f8fe7a38f99662119bce6a026dff92cca1e052e333a9253adcbda5d5d5219e257d0ab2b86	softhsm	2026-11-29 15:39:02.661863+00	[]
\.


--
-- Data for Name: revocations; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.revocations (kind, ca_fingerprint, value, created_at) FROM stdin;
key		SHA256:7eOu95aFZ4kdMHoNh5vl2CzXYOIXWpd+7CYIKFpB5fY	2026-11-29 15:38:31.046156+00
key-id	SHA256:qBbcYVlc62JlNUG+r7dkYphTtg5zPcrZp/Ssi16/EiE	revoked-key-id	2026-11-29 15:38:31.964708+00
serial	SHA256:qBbcYVlc62JlNUG+r7dkYphTtg5zPcrZp/Ssi16/EiE	17	2026-11-29 15:38:31.530379+00
key		SHA256:Qq7PowRsICfZG/0Qqgb31lx85kWjD3cjvNAqPJpGwHE	2026-11-29 15:39:05.928342+00
\.


--
-- Data for Name: state; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.state (id, version) FROM stdin;
1	58
\.


--
-- Data for Name: token_logins; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.token_logins (token, stopped_at, stopped_by, reason, cleared, holder, held_until) FROM stdin;
softhsm	\N			f		\N
\.


--
-- Name: clients_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.clients_id_seq', 10, true);


--
-- Name: keys_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.keys_id_seq', 10, true);


--
-- Name: alembic_version alembic_version_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);


--
-- Name: audit_discontinuities pk_audit_discontinuities; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.audit_discontinuities
    ADD CONSTRAINT pk_audit_discontinuities PRIMARY KEY (origin, declared);


--
-- Name: audit_heads pk_audit_heads; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.audit_heads
    ADD CONSTRAINT pk_audit_heads PRIMARY KEY (origin);


--
-- Name: ca_clients pk_ca_clients; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.ca_clients
    ADD CONSTRAINT pk_ca_clients PRIMARY KEY (ca_fingerprint, client_id);


--
-- Name: cas pk_cas; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.cas
    ADD CONSTRAINT pk_cas PRIMARY KEY (fingerprint);


--
-- Name: certificates pk_certificates; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.certificates
    ADD CONSTRAINT pk_certificates PRIMARY KEY (key_id);


--
-- Name: clients pk_clients; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.clients
    ADD CONSTRAINT pk_clients PRIMARY KEY (id);


--
-- Name: credentials pk_credentials; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.credentials
    ADD CONSTRAINT pk_credentials PRIMARY KEY (fingerprint);


--
-- Name: enrolments pk_enrolments; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.enrolments
    ADD CONSTRAINT pk_enrolments PRIMARY KEY (id);


--
-- Name: grants pk_grants; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.grants
    ADD CONSTRAINT pk_grants PRIMARY KEY (client_id, key_id, purpose);


--
-- Name: key_owners pk_key_owners; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.key_owners
    ADD CONSTRAINT pk_key_owners PRIMARY KEY (key_id, client_id);


--
-- Name: key_purposes pk_key_purposes; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.key_purposes
    ADD CONSTRAINT pk_key_purposes PRIMARY KEY (key_id, purpose);


--
-- Name: keys pk_keys; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.keys
    ADD CONSTRAINT pk_keys PRIMARY KEY (id);


--
-- Name: revocations pk_revocations; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.revocations
    ADD CONSTRAINT pk_revocations PRIMARY KEY (kind, ca_fingerprint, value);


--
-- Name: state pk_state; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.state
    ADD CONSTRAINT pk_state PRIMARY KEY (id);


--
-- Name: token_logins pk_token_logins; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.token_logins
    ADD CONSTRAINT pk_token_logins PRIMARY KEY (token);


--
-- Name: clients uq_clients_name; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.clients
    ADD CONSTRAINT uq_clients_name UNIQUE (name);


--
-- Name: keys uq_keys_digest; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.keys
    ADD CONSTRAINT uq_keys_digest UNIQUE (digest);


--
-- Name: keys uq_keys_name; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.keys
    ADD CONSTRAINT uq_keys_name UNIQUE (name);


--
-- Name: ix_ca_clients_client_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_ca_clients_client_id ON public.ca_clients USING btree (client_id);


--
-- Name: ix_credentials_client_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_credentials_client_id ON public.credentials USING btree (client_id);


--
-- Name: ix_enrolments_client_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_enrolments_client_id ON public.enrolments USING btree (client_id);


--
-- Name: ix_grants_key_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_grants_key_id ON public.grants USING btree (key_id);


--
-- Name: ix_key_owners_client_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_key_owners_client_id ON public.key_owners USING btree (client_id);


--
-- Name: ca_clients fk_ca_clients_ca_fingerprint; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.ca_clients
    ADD CONSTRAINT fk_ca_clients_ca_fingerprint FOREIGN KEY (ca_fingerprint) REFERENCES public.cas(fingerprint) ON DELETE CASCADE;


--
-- Name: ca_clients fk_ca_clients_client_id; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.ca_clients
    ADD CONSTRAINT fk_ca_clients_client_id FOREIGN KEY (client_id) REFERENCES public.clients(id) ON DELETE CASCADE;


--
-- Name: certificates fk_certificates_key_id; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.certificates
    ADD CONSTRAINT fk_certificates_key_id FOREIGN KEY (key_id) REFERENCES public.keys(id) ON DELETE CASCADE;


--
-- Name: credentials fk_credentials_client_id; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.credentials
    ADD CONSTRAINT fk_credentials_client_id FOREIGN KEY (client_id) REFERENCES public.clients(id) ON DELETE CASCADE;


--
-- Name: enrolments fk_enrolments_client_id; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.enrolments
    ADD CONSTRAINT fk_enrolments_client_id FOREIGN KEY (client_id) REFERENCES public.clients(id) ON DELETE CASCADE;


--
-- Name: grants fk_grants_client_id; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.grants
    ADD CONSTRAINT fk_grants_client_id FOREIGN KEY (client_id) REFERENCES public.clients(id) ON DELETE CASCADE;


--
-- Name: grants fk_grants_key_id_purpose; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.grants
    ADD CONSTRAINT fk_grants_key_id_purpose FOREIGN KEY (key_id, purpose) REFERENCES public.key_purposes(key_id, purpose) ON DELETE CASCADE;


--
-- Name: key_owners fk_key_owners_client_id_clients; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.key_owners
    ADD CONSTRAINT fk_key_owners_client_id_clients FOREIGN KEY (client_id) REFERENCES public.clients(id) ON DELETE CASCADE;


--
-- Name: key_owners fk_key_owners_key_id_keys; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.key_owners
    ADD CONSTRAINT fk_key_owners_key_id_keys FOREIGN KEY (key_id) REFERENCES public.keys(id) ON DELETE CASCADE;


--
-- Name: key_purposes fk_key_purposes_key_id; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.key_purposes
    ADD CONSTRAINT fk_key_purposes_key_id FOREIGN KEY (key_id) REFERENCES public.keys(id) ON DELETE CASCADE;


--
-- PostgreSQL database dump complete
--


