/* Replays the conformance vectors through gateway_apply_json: every reply to the byte, and the digest they end on.
   No JSON library: a line is {"config":C,"now":N}, {"entry":E,"reply":R} or {"digest":"D"}, and C, E and R are cut out of it
   as they stand. */
#include "check.h"

static const char *vector;
static int line_number;

static void fail(const char *what, const char *got, size_t got_len, const char *want, size_t want_len) {
    fprintf(stderr, "%s:%d: %s\n  here:   %.*s\n  vector: %.*s\n", vector, line_number, what, (int)got_len, got,
            (int)want_len, want);
    exit(1);
}

/* Past the end of the value that begins at `at`: brackets are counted outside of strings. */
static const char *value_end(const char *at) {
    int depth = 0, quoted = 0;
    for (;; at++) {
        CHECK(*at != 0);
        if (quoted) {
            if (*at == '\\') at++;
            else if (*at == '"') quoted = 0;
        } else if (*at == '"') quoted = 1;
        else if (*at == '{' || *at == '[') depth++;
        else if ((*at == '}' || *at == ']') && depth-- == 0) return at;
        else if (*at == ',' && depth == 0) return at;
    }
}

/* The value under a key that stands right at `*at`, which moves past it and the comma. */
static const char *value(const char **at, const char *key, size_t *len) {
    const size_t key_len = strlen(key);
    if (strncmp(*at, key, key_len) != 0) fail("not a line of a vector", *at, strlen(*at), key, key_len);
    const char *begin = *at + key_len, *end = value_end(begin);
    *len = (size_t)(end - begin);
    *at = *end == ',' ? end + 1 : end;
    return begin;
}

/* Reads a whole file with a NUL after it. */
static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    size_t len = 0, cap = 1 << 16, got;
    char *text = (char *)malloc(cap);
    while ((got = fread(text + len, 1, cap - len - 1, file)) > 0) {
        len += got;
        if (cap - len < 2) text = (char *)realloc(text, cap *= 2);
    }
    fclose(file);
    text[len] = 0;
    return text;
}

static void check_digest(gateway *gw, const char *want, size_t len) {
    uint8_t digest[GATEWAY_DIGEST_LEN];
    char hex[2 + 2 * GATEWAY_DIGEST_LEN + 1] = "\"";
    OK(gateway_digest(gw, digest));
    for (int i = 0; i < GATEWAY_DIGEST_LEN; i++) sprintf(hex + 1 + 2 * i, "%02x", digest[i]);
    strcat(hex, "\"");
    if (strlen(hex) != len || strncmp(hex, want, len) != 0) fail("the digest differs", hex, strlen(hex), want, len);
}

/* The same gateway from its snapshot. */
static gateway *copy_of(gateway *gw) {
    gateway_bytes *snapshot = NULL;
    gateway *copy = NULL;
    size_t len = 0;
    OK(gateway_snapshot(gw, &snapshot));
    OK(gateway_bytes_len(snapshot, &len));
    char *bytes = (char *)malloc(len);
    OK(gateway_bytes_copy(snapshot, bytes, len, NULL));
    OK(gateway_bytes_free(snapshot));
    OK(gateway_replica(bytes, len, &copy));
    free(bytes);
    OK(gateway_free(gw));
    return copy;
}

/* Replays one vector; returns how many entries it has. */
static int replay(const char *path) {
    vector = path, line_number = 0;
    char *text = read_file(path), *next = NULL;
    gateway *gw = NULL;
    int entries = 0, ended = 0;
    for (char *line = text; *line != 0; line = next) {
        char *end = strchr(line, '\n');
        next = end == NULL ? line + strlen(line) : end + 1;
        if (end != NULL) *end = 0;
        line_number++;
        const char *at = line;
        size_t len, want_len, reply_len;
        if (gw == NULL) {
            const char *config = value(&at, "{\"config\":", &len), *now = value(&at, "\"now\":", &want_len);
            OK(gateway_new_json(config, len, strtoull(now, NULL, 10), &gw));
        } else if (strncmp(line, "{\"digest\":", 10) == 0) {
            const char *digest = value(&at, "{\"digest\":", &len);
            check_digest(gw, digest, len);
            ended = 1;
        } else {
            const char *entry = value(&at, "{\"entry\":", &len), *want = value(&at, "\"reply\":", &want_len);
            gateway_bytes *reply = NULL;
            OK(gateway_apply_json(gw, entry, len, &reply));
            OK(gateway_bytes_len(reply, &reply_len));
            char *got = (char *)malloc(reply_len + 1);
            OK(gateway_bytes_copy(reply, got, reply_len, NULL));
            if (reply_len != want_len || memcmp(got, want, want_len) != 0) {
                fail("the reply differs", got, reply_len, want, want_len);
            }
            free(got);
            OK(gateway_bytes_free(reply));
            if (++entries % 16 == 0) gw = copy_of(gw);
        }
    }
    if (!ended) fail("the vector has no digest", "", 0, "", 0);
    OK(gateway_free(gw));
    free(text);
    return entries;
}

int main(int count, char **paths) {
    int entries = 0;
    CHECK(count > 1);
    for (int i = 1; i < count; i++) entries += replay(paths[i]);
    NUMBER(gateway_handles_live(), 0);
    printf("%d vectors, %d entries\n", count - 1, entries);
    return 0;
}
