#include <gateway.h> /* cc quickstart.c $(pkg-config --cflags --libs libgateway) */
#include <stdio.h>

static int failed(const char *what) {
    char message[256];
    gateway_last_error_message(message, sizeof message, NULL);
    fprintf(stderr, "%s: %s\n", what, message);
    return 1;
}

int main(void) {
    gateway *gw = NULL;
    if (gateway_new(NULL, gateway_now(), &gw) != GATEWAY_OK) return failed("new");

    const char *models[] = {"dev"};
    gateway_backend_options flux = GATEWAY_BACKEND_OPTIONS_INIT; /* carries its own size, and all defaults */
    flux.modality = "image", flux.family = "flux", flux.models = models, flux.models_len = 1;
    if (gateway_put_backend(gw, gateway_now(), "flux-1", &flux) != GATEWAY_OK) return failed("backend");

    gateway_job_id job;
    gateway_job_id_random(&job);
    gateway_submit_options fox = GATEWAY_SUBMIT_OPTIONS_INIT;
    fox.payload = "a red fox", fox.payload_len = 9;
    if (gateway_submit(gw, gateway_now(), job, "acme", "image/flux/dev/t2i", &fox, NULL)) return failed("submit");

    gateway_lease *lease = NULL;
    while (gateway_dispatch(gw, gateway_now(), &lease, NULL) == GATEWAY_OK) {
        gateway_lease_info info;
        char prompt[64] = "";
        gateway_lease_read(lease, &info); /* a copy: nothing points into the library */
        gateway_lease_payload(lease, prompt, sizeof prompt - 1, NULL);
        printf("%s renders \"%s\" for %s\n", info.backend, prompt, info.customer);
        gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
        if (gateway_complete(gw, gateway_now(), info.id, &output, NULL, 0, NULL)) return failed("complete");
        gateway_lease_free(lease);
    }
    gateway_job view;
    if (gateway_read_job(gw, job, &view) == GATEWAY_OK) printf("the job is %s\n", gateway_state_name(view.state));
    gateway_free(gw);
}
