import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
    alias(libs.plugins.dokka)
    `maven-publish`
}

description = "llama.cpp and LiteRT behind JNI, for edgeb core"

// Where llama.cpp's source lies, once for all ABIs and build types.
val nativeSources = rootProject.layout.buildDirectory.dir("native").get().asFile

fun switch(name: String): String =
    if (providers.gradleProperty("edgeb.$name").get().toBooleanStrict()) "ON" else "OFF"

android {
    namespace = "dev.edgeb.runtime"
    compileSdk = libs.versions.compileSdk.get().toInt()
    ndkVersion = libs.versions.ndk.get()

    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")

        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
        externalNativeBuild {
            cmake {
                arguments += "-DCMAKE_BUILD_TYPE=Release"
                arguments += "-DLLAMA_CPP_CACHE=$nativeSources"
                arguments += "-DEDGEB_KLEIDIAI=${switch("kleidiai")}"
                arguments += "-DEDGEB_OPENMP=${switch("openmp")}"
                // Exceptions pass between these libraries: all of them need the same C++ library.
                arguments += "-DANDROID_STL=c++_shared"
                arguments += "-DANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES=ON"
            }
        }
    }

    sourceSets {
        // What needs Android's classes; the rest is compiled on a desktop's JVM, too.
        getByName("main").kotlin.srcDir("src/android/kotlin")
    }

    externalNativeBuild {
        cmake {
            path("src/main/cpp/CMakeLists.txt")
            version = libs.versions.cmake.get()
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    publishing {
        singleVariant("release") {
            withSourcesJar()
        }
    }
}

kotlin {
    explicitApi()
    compilerOptions {
        jvmTarget = JvmTarget.JVM_17
    }
}

dependencies {
    api(project(":core"))
}
