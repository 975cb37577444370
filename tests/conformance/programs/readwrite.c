/* readwrite -r FILE prints the first byte of FILE; readwrite -w FILE appends one byte to it.
 * A file that cannot be opened is "Error!" and status 1: the cases look for that word. */
#include <stdio.h>
#include <string.h>

static int fail(void) {
    puts("Error!");
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 0;
    int writing = strcmp(argv[1], "-w") == 0;
    FILE *file = fopen(argv[2], writing ? "a" : "r");
    if (!file)
        return fail();
    if (writing) {
        if (fputc('b', file) == EOF)
            return fail();
    } else {
        int byte = fgetc(file);
        if (byte == EOF)
            return fail();
        printf("%c\n", byte);
    }
    return fclose(file) == 0 ? 0 : fail();
}
