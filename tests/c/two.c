/* A program with two libraries that are written in Rust: this one and one that tests/c/run writes. */
#include <gateway.h>
#include <stdio.h>
#include <stdint.h>
uint32_t second_sum(uint32_t up_to);
uint32_t second_catches(void);
int main(void) {
    gateway *gw = NULL;
    if (gateway_new(NULL, gateway_now(), &gw) != 0) return 1;
    if (gateway_wake(NULL) != GATEWAY_BAD_POINTER) return 2;
    if (second_sum(100) != 5050) return 3;
    if (second_catches() != 1) return 4;
    if (gateway_free(gw) != 0) return 5;
    puts("both are well");
    return 0;
}
