/* A program that can be seen to have run. */
#include <stdio.h>

int main(void) { return puts("helloworld") < 0; }
